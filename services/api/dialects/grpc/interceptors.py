"""The interceptor that checks the API key of every call before it reads the caller's message.

gRPC reads the whole message of a call whose request is a single message before it calls the
handler. So the interceptor replaces every handler by one with a stream of requests, which reads
nothing until it is asked to: a caller without a key costs no more than its metadata. A message is
decoded here too, once it is known that it does not take too much memory (message_size.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any, cast
from weakref import WeakValueDictionary

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from services.api.access.client_address import ClientAddresses, parse_grpc_peer
from services.api.access.principal import Authenticator, Principal
from services.api.dialects.grpc.calls import Context, serve_call
from services.api.dialects.grpc.message_size import estimate_decoded_bytes
from services.api.parse_budget import MAX_PARSED_BYTES, ParseBudget
from services.api.shared_budget import SharedBudget
from services.shared.errors import DeadlineExceeded, EngineBusy, InvalidRequest

MAX_CALLS = 1024  # at the same time, of one worker
_MAX_READS = 4  # messages of one principal on the way at the same time; more of them wait
_READ_SECONDS = 120.0  # for a whole message
_TOO_LARGE = "the message is too large: it has too much text, or too many parts"

principal: ContextVar[Principal] = ContextVar("principal")  # the caller of the current call


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Serves every call by `serve_call`; sets `principal`, ends a call without a valid key unread.

    Only calls whose request is a single message are supported.
    """

    def __init__(
        self, authenticator: Authenticator, addresses: ClientAddresses, parse_budget: ParseBudget
    ) -> None:
        self._authenticator = authenticator
        self._addresses = addresses
        self._parse_budget = parse_budget
        self._calls = SharedBudget(MAX_CALLS)
        self._reads: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

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
        # Without a deserializer, the bytes of the message.
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._guard_stream(name, handler),
                response_serializer=handler.response_serializer,
            )
        return grpc.stream_unary_rpc_method_handler(
            self._guard_unary(name, handler),
            response_serializer=handler.response_serializer,
        )

    def _guard_unary(self, name: str, handler: Any) -> Any:
        async def call(requests: AsyncIterator[bytes], context: Context) -> Message:
            async with self._open(name, handler, requests, context) as request:
                return cast("Message", await handler.unary_unary(request, context))

        return call

    def _guard_stream(self, name: str, handler: Any) -> Any:
        async def call(requests: AsyncIterator[bytes], context: Context) -> None:
            async with (
                self._open(name, handler, requests, context) as request,
                aclosing(handler.unary_stream(request, context)) as responses,
            ):
                async for response in responses:
                    await context.write(response)

        return call

    @asynccontextmanager
    async def _open(
        self, name: str, handler: Any, requests: AsyncIterator[bytes], context: Context
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
            with self._take_place(caller.id), self._parse_budget.lease(caller.id) as lease:
                raw = await self._read(requests, caller.id)
                size = estimate_decoded_bytes(raw)
                if size > MAX_PARSED_BYTES:
                    raise InvalidRequest(_TOO_LARGE)
                lease.resize(size)
                try:
                    request = handler.request_deserializer(raw)
                except DecodeError as error:
                    raise InvalidRequest("the call's message cannot be parsed") from error
                del raw
                yield request

    @contextmanager
    def _take_place(self, caller: str) -> Iterator[None]:
        """One of the places for calls, during the block."""
        if not self._calls.take(caller, 1):
            raise EngineBusy("this API key has too many calls open; try again shortly")
        try:
            yield
        finally:
            self._calls.give_back(caller, 1)

    async def _read(self, requests: AsyncIterator[bytes], caller: str) -> bytes:
        """The bytes of the message, which gRPC collects in memory until they are complete."""
        reads = self._reads.get(caller)
        if reads is None:
            reads = self._reads[caller] = asyncio.Semaphore(_MAX_READS)
        try:
            async with asyncio.timeout(_READ_SECONDS), reads:
                raw = await anext(requests, None)
        except TimeoutError:
            raise DeadlineExceeded("the call's message did not arrive in time") from None
        if raw is None:
            raise InvalidRequest("the call has no message")
        return raw
