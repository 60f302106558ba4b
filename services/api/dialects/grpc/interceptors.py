"""The interceptor that checks the API key of every call before it reads the caller's message.

gRPC reads the whole message of a call whose request is a single message before it calls the
handler. So the interceptor replaces every handler by one with a stream of requests, which reads
nothing until it is asked to: a caller without a key costs no more than its metadata.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from contextvars import ContextVar
from typing import Any, cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from services.api.access.client_address import ClientAddresses, parse_grpc_peer
from services.api.access.principal import Authenticator, Principal
from services.api.dialects.grpc.calls import Context, serve_call
from services.shared.errors import InvalidRequest

principal: ContextVar[Principal] = ContextVar("principal")  # the caller of the current call


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Serves every call by `serve_call`; sets `principal`, ends a call without a valid key unread.

    Only calls whose request is a single message are supported.
    """

    def __init__(self, authenticator: Authenticator, addresses: ClientAddresses) -> None:
        self._authenticator = authenticator
        self._addresses = addresses

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of a call, behind the check of its key."""
        handler: Any = await continuation(handler_call_details)
        if handler is None:  # gRPC answers UNIMPLEMENTED
            return None
        assert not handler.request_streaming
        name = handler_call_details.method.rpartition("/")[2]
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._guard_stream(name, handler.unary_stream),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        return grpc.stream_unary_rpc_method_handler(
            self._guard_unary(name, handler.unary_unary),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _guard_unary(self, name: str, behavior: Any) -> Any:
        async def call(requests: AsyncIterator[Message], context: Context) -> Message:
            async with self._open(name, requests, context) as request:
                return cast("Message", await behavior(request, context))

        return call

    def _guard_stream(self, name: str, behavior: Any) -> Any:
        async def call(requests: AsyncIterator[Message], context: Context) -> None:
            async with (
                self._open(name, requests, context) as request,
                aclosing(behavior(request, context)) as responses,
            ):
                async for response in responses:
                    await context.write(response)

        return call

    @asynccontextmanager
    async def _open(
        self, name: str, requests: AsyncIterator[Message], context: Context
    ) -> AsyncIterator[Message]:
        """The message of a call, read after the check of its key."""
        metadata = [(name, str(value)) for name, value in context.invocation_metadata() or ()]
        client = self._addresses.find(
            parse_grpc_peer(context.peer()),
            [value for name, value in metadata if name == "x-forwarded-for"],
        )
        async with serve_call(name, client, context) as call:
            caller = await self._authenticator.authenticate(dict(metadata), client=client)
            call.principal_id = caller.id
            principal.set(caller)
            try:
                request = await anext(requests, None)
            except DecodeError as error:
                raise InvalidRequest("the call's message cannot be parsed") from error
            if request is None:
                raise InvalidRequest("the call has no message")
            yield request
