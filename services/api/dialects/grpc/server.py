"""The public gRPC service, wire-compatible with the original Spindll's clients (spindll.proto).

Every worker runs a server on the same port: with SO_REUSEPORT, the kernel spreads the connections.
The API key is sent as metadata, `authorization: Bearer …` or `x-api-key: …` (interceptors.py).
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import NoReturn

import grpc
import grpc.aio

from protos import spindll_pb2
from protos.spindll_pb2_grpc import SpindllServicer, add_SpindllServicer_to_server
from services.api.access.client_address import ClientAddresses
from services.api.access.principal import Authenticator, require_admin
from services.api.dependencies import ApiParts
from services.api.dialects.grpc import convert
from services.api.dialects.grpc.calls import Context
from services.api.dialects.grpc.interceptors import MAX_CALLS, CallInterceptor, principal
from services.api.dialects.grpc.to_request import (
    chat_to_request,
    generate_to_request,
    prefill_to_request,
)
from services.api.generation.answers.events import (
    Finished,
    FinishReason,
    PartEvent,
    Started,
    TextDelta,
    Waiting,
)
from services.api.generation.requests.generation_request import GenerationRequest
from services.api.settings import ApiSettings
from services.shared.errors import InternalError, NotFound
from services.shared.limits import MAX_MESSAGE_BYTES, MAX_SUBMIT_BYTES

_MAX_CALLS_PER_CONNECTION = 256
_MAX_METADATA_BYTES = 16 << 10
_MAX_MESSAGE_BYTES = MAX_SUBMIT_BYTES + (1 << 20)  # a larger one could not reach the engine
_HANDSHAKE_SECONDS = 10
_NOT_SERVED = "is not served over gRPC yet; use the HTTP API"


@dataclass(frozen=True, slots=True)
class _End:
    """The end of an answer."""

    usage: spindll_pb2.UsageStats
    reason: FinishReason


async def start_grpc_server(
    parts: ApiParts, authenticator: Authenticator
) -> grpc.aio.Server | None:
    """Start the server of this worker; None when the port is 0, RuntimeError when it is taken."""
    settings = parts.settings
    if not settings.grpc_port:
        return None
    addresses = ClientAddresses(settings.forwarded_allow_ips)
    interceptor = CallInterceptor(authenticator, addresses, parts.parse_budget)
    server = grpc.aio.server(
        interceptors=[interceptor],
        options=_build_options(settings),
        maximum_concurrent_rpcs=MAX_CALLS,
    )
    add_SpindllServicer_to_server(SpindllService(parts), server)
    host = f"[{settings.api_host}]" if ":" in settings.api_host else settings.api_host
    server.add_insecure_port(f"{host}:{settings.grpc_port}")
    await server.start()
    return server


def _build_options(settings: ApiSettings) -> tuple[tuple[str, int], ...]:
    half_ms = int(settings.client_timeout_seconds * 500)
    return (
        ("grpc.so_reuseport", 1),
        ("grpc.max_receive_message_length", min(settings.max_body_bytes, _MAX_MESSAGE_BYTES)),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_concurrent_streams", _MAX_CALLS_PER_CONNECTION),
        ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", _MAX_METADATA_BYTES),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_SECONDS * 1000),
        # The calls of a client that vanished end after `client_timeout_seconds`.
        ("grpc.keepalive_time_ms", half_ms),
        ("grpc.keepalive_timeout_ms", half_ms),
        ("grpc.http2.ping_timeout_ms", half_ms),  # what the keep-alive really waits for
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # Clients may ping as well; by default, gRPC disconnects one that pings every minute.
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    )


class SpindllService(SpindllServicer):
    """The public calls, behind the interceptor: each has a `principal`, and may raise any error."""

    def __init__(self, parts: ApiParts) -> None:
        self._parts = parts

    async def Chat(  # noqa: N802
        self, request: spindll_pb2.ChatRequest, context: Context
    ) -> AsyncIterator[spindll_pb2.ChatResponse]:
        """Continue a conversation; loads the model if it is not loaded."""
        parsed = chat_to_request(request, _new_id(), principal.get())
        async with aclosing(self._generate(parsed)) as answer:
            async for event in answer:
                if isinstance(event, _End):
                    reason = event.reason.value
                    yield spindll_pb2.ChatResponse(
                        done=True, usage=event.usage, finish_reason=reason
                    )
                elif (message := convert.event_to_proto(event)) is not None:
                    yield message

    async def Generate(  # noqa: N802
        self, request: spindll_pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[spindll_pb2.GenerateResponse]:
        """Continue a text without a chat template; loads the model if it is not loaded."""
        parsed = generate_to_request(request, _new_id(), principal.get())
        async with aclosing(self._generate(parsed)) as answer:
            async for event in answer:
                if isinstance(event, _End):
                    yield spindll_pb2.GenerateResponse(done=True, usage=event.usage)
                elif isinstance(event, TextDelta) and event.text:
                    yield spindll_pb2.GenerateResponse(token=event.text)

    async def List(  # noqa: N802
        self, request: spindll_pb2.ListRequest, context: Context
    ) -> spindll_pb2.ListResponse:
        """Every stored model."""
        models = await self._parts.catalog.list()
        contexts = await self._parts.catalog.find_context_lengths(models)
        return convert.models_to_proto(models, contexts)

    async def Status(  # noqa: N802
        self, request: spindll_pb2.StatusRequest, context: Context
    ) -> spindll_pb2.StatusResponse:
        """The loaded models, and the memory."""
        return convert.status_to_proto(await self._parts.engine.calls.list_loaded())

    async def Load(  # noqa: N802
        self, request: spindll_pb2.LoadRequest, context: Context
    ) -> spindll_pb2.LoadResponse:
        """Load a model; returns when it is ready. Admins only."""
        require_admin(principal.get())
        manifest = await self._parts.catalog.resolve(request.model)
        settings = convert.load_settings_from_proto(request)
        loaded = await self._parts.engine.calls.load(manifest.name, settings)
        return spindll_pb2.LoadResponse(
            success=True,
            message=f"{manifest.name} is loaded",
            already_loaded=loaded.already_loaded,
        )

    async def Unload(  # noqa: N802
        self, request: spindll_pb2.UnloadRequest, context: Context
    ) -> spindll_pb2.UnloadResponse:
        """Unload a model; NOT_FOUND when it was not loaded, as in the original. Admins only."""
        require_admin(principal.get())
        manifest = await self._parts.catalog.resolve(request.model)
        unloaded = await self._parts.engine.calls.unload(manifest.name)
        if not unloaded.was_loaded:
            raise NotFound(f"{manifest.name} is not loaded")
        return spindll_pb2.UnloadResponse(success=True)

    async def Prefill(  # noqa: N802
        self, request: spindll_pb2.PrefillRequest, context: Context
    ) -> spindll_pb2.PrefillResponse:
        """Compute a conversation and keep it, so that the chat that continues it begins at once."""
        parsed = prefill_to_request(request, _new_id(), principal.get())
        async with aclosing(self._generate(parsed)) as answer:
            async for event in answer:
                if isinstance(event, _End):
                    return spindll_pb2.PrefillResponse(tokens_cached=event.usage.prompt_tokens)
        raise InternalError("internal error")

    async def Pull(  # noqa: N802
        self, request: spindll_pb2.PullRequest, context: Context
    ) -> AsyncIterator[spindll_pb2.PullProgress]:
        """Not implemented yet."""
        yield await _abort_unimplemented(context, "Pull")

    async def Delete(  # noqa: N802
        self, request: spindll_pb2.DeleteRequest, context: Context
    ) -> spindll_pb2.DeleteResponse:
        """Not implemented yet."""
        return await _abort_unimplemented(context, "Delete")

    async def _generate(
        self, request: GenerationRequest
    ) -> AsyncGenerator[TextDelta | PartEvent | _End]:
        """Everything that the answer consists of, then its end."""
        generation = await self._parts.generations.open(request)
        reason = FinishReason.STOP
        try:
            async for events in generation:
                for event in events:
                    if isinstance(event, Finished):
                        reason = event.reason
                    elif not isinstance(event, Waiting | Started):
                        yield event
            usage = convert.usage_to_proto(generation.usage, seconds=generation.seconds)
            yield _End(usage, reason)
        finally:
            generation.close()


def _new_id() -> str:
    return f"grpc-{secrets.token_hex(12)}"


async def _abort_unimplemented(context: Context, call: str) -> NoReturn:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{call} {_NOT_SERVED}")
    raise AssertionError("abort returned")
