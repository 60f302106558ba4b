"""The public gRPC service, wire-compatible with the original Spindll's clients (spindll.proto).

Every worker runs one on the same port: SO_REUSEPORT lets the kernel spread the connections. A key
travels in metadata, `authorization: Bearer …` or `x-api-key: …`. Trailing metadata say more about
an error: `spindll-error-code` (several of ours share a gRPC status), `retry-after` in seconds, and
`spindll-loading`, the progress of a model on its way.
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
from google.protobuf.message import Message

from protos import engine_pb2, spindll_pb2
from protos.spindll_pb2_grpc import SpindllServicer, add_SpindllServicer_to_server
from services.api.clients.engine import MAX_MESSAGE_BYTES
from services.api.clients.generation_stream import merged
from services.api.dependencies import ApiParts
from services.api.dialects.grpc import convert
from services.api.middleware.authentication import Authenticator, Principal, require_admin
from services.api.prompts.render import Conversation, chat_prompt
from services.shared import errors
from services.shared.errors import NotFound, SpindllError
from services.shared.store.manifest import Manifest

logger = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Message, Message]

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
_OPTIONS = (
    ("grpc.so_reuseport", 1),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
)
_LATER = "is not served over gRPC yet; use the HTTP API"


async def start_grpc_server(
    parts: ApiParts, authenticator: Authenticator
) -> grpc.aio.Server | None:
    """The server of this worker, listening; None when the port is 0. RuntimeError: port taken."""
    settings = parts.settings
    if not settings.grpc_port:
        return None
    server = grpc.aio.server(options=_OPTIONS)
    add_SpindllServicer_to_server(SpindllService(parts, authenticator), server)
    host = f"[{settings.api_host}]" if ":" in settings.api_host else settings.api_host
    server.add_insecure_port(f"{host}:{settings.grpc_port}")
    await server.start()
    return server


class SpindllService(SpindllServicer):
    """The public calls. Each checks the key, does its work, and turns what it raised into a status."""

    def __init__(self, parts: ApiParts, authenticator: Authenticator) -> None:
        self._parts = parts
        self._authenticator = authenticator

    async def Chat(  # noqa: N802
        self, request: spindll_pb2.ChatRequest, context: Context
    ) -> AsyncIterator[spindll_pb2.ChatResponse]:
        """Continue a conversation; loads the model when it is not loaded."""
        async with _answering(context):
            submit = await self._chat_submit(request, await self._principal(context))
            async for token, usage in self._words(submit):
                yield spindll_pb2.ChatResponse(token=token, done=usage is not None, usage=usage)

    async def Generate(  # noqa: N802
        self, request: spindll_pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[spindll_pb2.GenerateResponse]:
        """Continue a text as it stands; loads the model when it is not loaded."""
        async with _answering(context):
            principal = await self._principal(context)
            manifest = await self._parts.on_demand.resolve(request.model, principal)
            submit = _submit(manifest, principal)
            submit.text.pieces.add(text=request.prompt)
            submit.text.add_special = True
            convert.set_params(submit, request.params)
            async for token, usage in self._words(submit):
                yield spindll_pb2.GenerateResponse(token=token, done=usage is not None, usage=usage)

    async def List(  # noqa: N802
        self, request: spindll_pb2.ListRequest, context: Context
    ) -> spindll_pb2.ListResponse:
        """Every stored model."""
        async with _answering(context):
            await self._principal(context)
            return convert.model_list(await self._parts.catalog.models())

    async def Status(  # noqa: N802
        self, request: spindll_pb2.StatusRequest, context: Context
    ) -> spindll_pb2.StatusResponse:
        """What is loaded, and the memory."""
        async with _answering(context):
            await self._principal(context)
            return convert.status(await self._parts.engine.loaded())

    async def Load(  # noqa: N802
        self, request: spindll_pb2.LoadRequest, context: Context
    ) -> spindll_pb2.LoadResponse:
        """Load a model; answers when it is ready. Admins only."""
        async with _answering(context):
            require_admin(await self._principal(context))
            manifest = await self._parts.catalog.resolve(request.model)
            loaded = await self._parts.engine.load(
                engine_pb2.LoadRequest(model=manifest.name, settings=convert.load_settings(request))
            )
            return spindll_pb2.LoadResponse(
                success=True,
                message=f"{manifest.name} is loaded",
                already_loaded=loaded.already_loaded,
            )

    async def Unload(  # noqa: N802
        self, request: spindll_pb2.UnloadRequest, context: Context
    ) -> spindll_pb2.UnloadResponse:
        """Unload a model; NOT_FOUND when it was not loaded, as in the original. Admins only."""
        async with _answering(context):
            require_admin(await self._principal(context))
            manifest = await self._parts.catalog.resolve(request.model)
            answer = await self._parts.engine.unload(engine_pb2.UnloadRequest(model=manifest.name))
            if not answer.was_loaded:
                raise NotFound(f"{manifest.name} is not loaded")
            return spindll_pb2.UnloadResponse(success=True)

    async def Prefill(  # noqa: N802
        self, request: spindll_pb2.PrefillRequest, context: Context
    ) -> spindll_pb2.PrefillResponse:
        """Not yet."""
        return await _unimplemented(context, "Prefill")

    async def Pull(  # noqa: N802
        self, request: spindll_pb2.PullRequest, context: Context
    ) -> AsyncIterator[spindll_pb2.PullProgress]:
        """Not yet."""
        yield await _unimplemented(context, "Pull")

    async def Delete(  # noqa: N802
        self, request: spindll_pb2.DeleteRequest, context: Context
    ) -> spindll_pb2.DeleteResponse:
        """Not yet."""
        return await _unimplemented(context, "Delete")

    async def _principal(self, context: Context) -> Principal:
        metadata = context.invocation_metadata() or ()
        return await self._authenticator.principal({k: str(v) for k, v in metadata})

    async def _chat_submit(
        self, request: spindll_pb2.ChatRequest, principal: Principal
    ) -> engine_pb2.Submit:
        convert.check_encryption_key(request.encryption_key)
        conversation = Conversation(messages=convert.template_messages(request.messages))
        manifest = await self._parts.on_demand.resolve(request.model, principal)
        submit = _submit(manifest, principal)
        prompt = await asyncio.to_thread(chat_prompt, manifest, conversation)
        submit.text.CopyFrom(prompt)
        # Whoever sends a key wants nothing of this kept that the key does not protect.
        submit.no_cache = bool(request.encryption_key)
        convert.set_params(submit, request.params)
        return submit

    async def _words(
        self, submit: engine_pb2.Submit
    ) -> AsyncIterator[tuple[str, spindll_pb2.UsageStats | None]]:
        """Text as it comes, then the usage with an empty text."""
        started = time.monotonic()
        generation = await self._parts.engine.generate([submit])
        try:
            while True:
                for event in merged(await generation.take()):
                    if event.HasField("delta") and event.delta.text:
                        yield event.delta.text, None
                    elif event.HasField("finished"):
                        seconds = time.monotonic() - started
                        yield "", convert.usage(event.finished, seconds=seconds)
                        return
        finally:
            generation.close()


def _submit(manifest: Manifest, principal: Principal) -> engine_pb2.Submit:
    return engine_pb2.Submit(
        trace_id=f"grpc-{secrets.token_hex(12)}",
        model=manifest.name,
        principal=principal.id,
        n=1,
        lane=engine_pb2.LANE_INTERACTIVE,
    )


@asynccontextmanager
async def _answering(context: Context) -> AsyncIterator[None]:
    """Turns what was raised into a gRPC status. A client learns nothing of our bugs."""
    try:
        yield
    except SpindllError as error:
        status = next(GRPC_STATUS[cls] for cls in type(error).__mro__ if cls in GRPC_STATUS)
        context.set_trailing_metadata(trailers(error))
        await context.abort(status, error.message)
    except (asyncio.CancelledError, grpc.aio.AbortError, GeneratorExit):
        raise
    except Exception:  # a servicer survives every call
        logger.exception("unexpected error")
        await context.abort(grpc.StatusCode.INTERNAL, "internal error")


def trailers(error: SpindllError) -> tuple[tuple[str, str], ...]:
    """What a client may want to know beside the status: the code, when to come back, and of a
    model on its way how far it is, as JSON."""
    told = [("spindll-error-code", error.code)]
    if error.retry_after_seconds is not None:
        told.append(("retry-after", str(max(1, math.ceil(error.retry_after_seconds)))))
    if "loading" in error.details:
        told.append(("spindll-loading", msgspec.json.encode(error.details["loading"]).decode()))
    return tuple(told)


async def _unimplemented(context: Context, call: str) -> NoReturn:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{call} {_LATER}")
    raise AssertionError("abort returned")
