"""The public gRPC service, wire-compatible with the original Spindll's clients (spindll.proto).

Every worker runs a server on the same port: with SO_REUSEPORT, the kernel spreads the connections.
The API key is sent as metadata, `authorization: Bearer …` or `x-api-key: …`. Trailing metadata
describe an error: `spindll-error-code` (several error classes share a gRPC status), `retry-after`
in seconds, and `spindll-loading`, the progress of a model that is being downloaded.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import NoReturn

import grpc
import grpc.aio
import msgspec

from protos import engine_pb2, spindll_pb2
from protos.spindll_pb2_grpc import SpindllServicer, add_SpindllServicer_to_server
from services.api.access.client_address import ClientAddresses
from services.api.access.principal import Authenticator, Principal, require_admin
from services.api.clients.generation_stream import merge_deltas
from services.api.dependencies import ApiParts
from services.api.dialects.grpc import convert
from services.api.dialects.grpc.interceptors import AuthenticationInterceptor, Context, principal
from services.api.prompts.render import Conversation, render_prompt
from services.api.settings import ApiSettings
from services.shared import errors
from services.shared.errors import NotFound, SpindllError
from services.shared.limits import MAX_MESSAGE_BYTES
from services.shared.store.manifest import Manifest

logger = logging.getLogger(__name__)

GRPC_STATUS: Mapping[type[SpindllError], grpc.StatusCode] = {
    errors.SpindllError: grpc.StatusCode.INTERNAL,
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotAuthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.Conflict: grpc.StatusCode.FAILED_PRECONDITION,
    errors.EngineBusy: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.ModelLoadFailed: grpc.StatusCode.INTERNAL,
    errors.InsufficientMemory: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Cancelled: grpc.StatusCode.CANCELLED,
}
_MAX_CALLS = 1024  # at the same time, of one worker
_MAX_CALLS_PER_CONNECTION = 256
_MAX_METADATA_BYTES = 16 << 10
_HANDSHAKE_SECONDS = 10
_NOT_SERVED = "is not served over gRPC yet; use the HTTP API"


async def start_grpc_server(
    parts: ApiParts, authenticator: Authenticator
) -> grpc.aio.Server | None:
    """Start the server of this worker; None when the port is 0, RuntimeError when it is taken."""
    settings = parts.settings
    if not settings.grpc_port:
        return None
    interceptor = AuthenticationInterceptor(
        authenticator, ClientAddresses(settings.forwarded_allow_ips), _translate_errors
    )
    server = grpc.aio.server(
        interceptors=[interceptor],
        options=_build_options(settings),
        maximum_concurrent_rpcs=_MAX_CALLS,
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
        ("grpc.max_receive_message_length", settings.max_body_bytes),
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
    """The public calls, behind the interceptor. Each turns an error into a gRPC status."""

    def __init__(self, parts: ApiParts) -> None:
        self._parts = parts

    async def Chat(  # noqa: N802
        self, request: spindll_pb2.ChatRequest, context: Context
    ) -> AsyncIterator[spindll_pb2.ChatResponse]:
        """Continue a conversation; loads the model if it is not loaded."""
        async with _translate_errors(context):
            submit = await self._build_chat_submit(request, principal.get())
            async for token, usage in self._generate(submit):
                yield spindll_pb2.ChatResponse(token=token, done=usage is not None, usage=usage)

    async def Generate(  # noqa: N802
        self, request: spindll_pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[spindll_pb2.GenerateResponse]:
        """Continue a text without a chat template; loads the model if it is not loaded."""
        async with _translate_errors(context):
            manifest = await self._parts.pull_on_demand.resolve(request.model, principal.get())
            submit = _build_submit(manifest, principal.get())
            submit.text.pieces.add(text=request.prompt)
            submit.text.add_special = True
            convert.apply_params(submit, request.params)
            async for token, usage in self._generate(submit):
                yield spindll_pb2.GenerateResponse(token=token, done=usage is not None, usage=usage)

    async def List(  # noqa: N802
        self, request: spindll_pb2.ListRequest, context: Context
    ) -> spindll_pb2.ListResponse:
        """Every stored model."""
        async with _translate_errors(context):
            return convert.models_to_proto(await self._parts.catalog.list())

    async def Status(  # noqa: N802
        self, request: spindll_pb2.StatusRequest, context: Context
    ) -> spindll_pb2.StatusResponse:
        """The loaded models, and the memory."""
        async with _translate_errors(context):
            return convert.status_to_proto(await self._parts.engine.list_loaded())

    async def Load(  # noqa: N802
        self, request: spindll_pb2.LoadRequest, context: Context
    ) -> spindll_pb2.LoadResponse:
        """Load a model; returns when it is ready. Admins only."""
        async with _translate_errors(context):
            require_admin(principal.get())
            manifest = await self._parts.catalog.resolve(request.model)
            settings = convert.load_settings_from_proto(request)
            loaded = await self._parts.engine.load(manifest.name, settings)
            return spindll_pb2.LoadResponse(
                success=True,
                message=f"{manifest.name} is loaded",
                already_loaded=loaded.already_loaded,
            )

    async def Unload(  # noqa: N802
        self, request: spindll_pb2.UnloadRequest, context: Context
    ) -> spindll_pb2.UnloadResponse:
        """Unload a model; NOT_FOUND when it was not loaded, as in the original. Admins only."""
        async with _translate_errors(context):
            require_admin(principal.get())
            manifest = await self._parts.catalog.resolve(request.model)
            unloaded = await self._parts.engine.unload(manifest.name)
            if not unloaded.was_loaded:
                raise NotFound(f"{manifest.name} is not loaded")
            return spindll_pb2.UnloadResponse(success=True)

    async def Prefill(  # noqa: N802
        self, request: spindll_pb2.PrefillRequest, context: Context
    ) -> spindll_pb2.PrefillResponse:
        """Not implemented yet."""
        return await _abort_unimplemented(context, "Prefill")

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

    async def _build_chat_submit(
        self, request: spindll_pb2.ChatRequest, caller: Principal
    ) -> engine_pb2.Submit:
        convert.check_encryption_key(request.encryption_key)
        conversation = Conversation(messages=convert.messages_from_proto(request.messages))
        manifest = await self._parts.pull_on_demand.resolve(request.model, caller)
        submit = _build_submit(manifest, caller)
        prompt = await asyncio.to_thread(render_prompt, manifest, conversation)
        submit.text.CopyFrom(prompt)
        # Nothing of a request with a key may be cached without the protection of that key.
        submit.no_cache = bool(request.encryption_key)
        convert.apply_params(submit, request.params)
        return submit

    async def _generate(
        self, submit: engine_pb2.Submit
    ) -> AsyncIterator[tuple[str, spindll_pb2.UsageStats | None]]:
        """Each new text, then an empty text with the usage."""
        started = time.monotonic()
        generation = await self._parts.engine.generate([submit])
        try:
            while True:
                for event in merge_deltas(await generation.take()):
                    if event.HasField("delta") and event.delta.text:
                        yield event.delta.text, None
                    elif event.HasField("finished"):
                        seconds = time.monotonic() - started
                        yield "", convert.usage_to_proto(event.finished, seconds=seconds)
                        return
        finally:
            generation.close()


def _build_submit(manifest: Manifest, caller: Principal) -> engine_pb2.Submit:
    return engine_pb2.Submit(
        trace_id=f"grpc-{secrets.token_hex(12)}",
        model=manifest.name,
        principal=caller.id,
        n=1,
        lane=engine_pb2.LANE_INTERACTIVE,
    )


@asynccontextmanager
async def _translate_errors(context: Context) -> AsyncIterator[None]:
    """Turn an error into a gRPC status; an unexpected one is sent without its message."""
    try:
        yield
    except SpindllError as error:
        status = next(GRPC_STATUS[cls] for cls in type(error).__mro__ if cls in GRPC_STATUS)
        context.set_trailing_metadata(build_trailers(error))
        await context.abort(status, error.message)
    except (asyncio.CancelledError, grpc.aio.AbortError, GeneratorExit):
        raise
    except Exception:  # a servicer must survive every call
        logger.exception("unexpected error")
        await context.abort(grpc.StatusCode.INTERNAL, "internal error")


def build_trailers(error: SpindllError) -> tuple[tuple[str, str], ...]:
    """The trailing metadata that describe an error; the progress of a download is JSON."""
    trailers = [("spindll-error-code", error.code)]
    if error.retry_after_seconds is not None:
        trailers.append(("retry-after", str(max(1, math.ceil(error.retry_after_seconds)))))
    if "loading" in error.details:
        trailers.append(("spindll-loading", msgspec.json.encode(error.details["loading"]).decode()))
    return tuple(trailers)


async def _abort_unimplemented(context: Context, call: str) -> NoReturn:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{call} {_NOT_SERVED}")
    raise AssertionError("abort returned")
