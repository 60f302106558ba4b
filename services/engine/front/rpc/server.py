"""The gRPC face of the engine: engine.proto, one method each; the work is behind models.py.

Errors of a session travel as events. Those of a unary call travel as a gRPC status with our own
error beside it, in trailing metadata `spindll-error` (see engine.proto).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, TypeVar
from urllib.parse import quote

import grpc
from grpc import aio

from protos import engine_pb2 as pb
from protos.engine_pb2_grpc import EngineServicer, add_EngineServicer_to_server
from services import __version__
from services.engine.front.models.loaded_model import State
from services.engine.front.models.manager import Models
from services.engine.front.models.manifest_cache import Catalogue
from services.engine.front.models.pool import Fleet
from services.engine.front.rpc import from_proto, to_proto
from services.engine.front.rpc.session import Session
from services.shared.errors import (
    Cancelled,
    Conflict,
    DeadlineExceeded,
    EngineBusy,
    InsufficientMemory,
    InternalError,
    InvalidRequest,
    ModelLoadFailed,
    NotAuthenticated,
    NotFound,
    PermissionDenied,
    SpindllError,
    Unavailable,
    to_wire,
)
from services.shared.limits import MAX_MESSAGE_BYTES

ERROR_KEY = "spindll-error"

# The first class an error is an instance of decides.
GRPC_STATUS: dict[type[SpindllError], grpc.StatusCode] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    NotAuthenticated: grpc.StatusCode.UNAUTHENTICATED,
    PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    NotFound: grpc.StatusCode.NOT_FOUND,
    EngineBusy: grpc.StatusCode.RESOURCE_EXHAUSTED,
    InsufficientMemory: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ModelLoadFailed: grpc.StatusCode.FAILED_PRECONDITION,
    Conflict: grpc.StatusCode.FAILED_PRECONDITION,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    Cancelled: grpc.StatusCode.CANCELLED,
    SpindllError: grpc.StatusCode.INTERNAL,
}

_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # A peer that vanished without a word (its host, its network) is noticed within a minute.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    # Two engines on one port would share its callers; the second one shall fail instead.
    ("grpc.so_reuseport", 0),
]

T = TypeVar("T")

logger = logging.getLogger(__name__)


class EngineServer(EngineServicer):
    """The servicer, and the server around it."""

    def __init__(
        self, models: Models, pool: Fleet, catalogue: Catalogue, *, clock: Callable[[], float]
    ) -> None:
        self._models = models
        self._pool = pool
        self._clock = clock
        self._catalogue = catalogue
        self._sessions: set[Session] = set()
        self._server = aio.server(options=_OPTIONS)
        add_EngineServicer_to_server(self, self._server)

    async def listen(self, address: str) -> int:
        """Start answering; the port, where there is one. RuntimeError when the address is taken."""
        port = self._server.add_insecure_port(address)
        await self._server.start()
        return port

    async def finish(self, *, grace_seconds: float) -> None:
        """Let sessions send what they have, then hang up."""
        for session in self._sessions:
            session.finish()
        await self._server.stop(grace_seconds)

    async def Session(  # noqa: N802
        self,
        request_iterator: AsyncIterator[pb.ClientFrame],
        context: Any,
    ) -> AsyncIterator[pb.EngineFrame]:
        """See engine.proto. This task is the only one that writes to the stream."""
        session = Session(self._models, self._catalogue, clock=self._clock)
        self._sessions.add(session)
        # Not only in `finally`: a generator that is not being awaited when the call ends is
        # closed some time later, and its requests would run on until then.
        context.add_done_callback(lambda _: session.close())
        reader = asyncio.create_task(_read(session, request_iterator))
        try:
            while items := await session.mailbox.take():
                yield to_proto.frame_of(items)
        finally:
            reader.cancel()
            session.close()
            self._sessions.discard(session)

    async def Load(self, request: pb.LoadRequest, context: Any) -> pb.LoadResponse:  # noqa: N802
        """See engine.proto."""
        return await _answer(self._load(request), context)

    async def Unload(  # noqa: N802
        self, request: pb.UnloadRequest, context: Any
    ) -> pb.UnloadResponse:
        """See engine.proto."""
        return await _answer(self._unload(request), context)

    async def Loaded(  # noqa: N802
        self, request: pb.LoadedRequest, context: Any
    ) -> pb.LoadedResponse:
        """See engine.proto."""
        return await _answer(self._loaded(), context)

    async def Plan(self, request: pb.PlanRequest, context: Any) -> pb.PlanResponse:  # noqa: N802
        """See engine.proto."""
        return await _answer(self._plan(request), context)

    async def Tokenize(  # noqa: N802
        self, request: pb.TokenizeRequest, context: Any
    ) -> pb.TokenizeResponse:
        """See engine.proto."""
        return await _answer(self._tokenize(request), context)

    async def Health(  # noqa: N802
        self, request: pb.HealthRequest, context: Any
    ) -> pb.HealthResponse:
        """See engine.proto."""
        return await _answer(self._health(), context)

    async def _load(self, request: pb.LoadRequest) -> pb.LoadResponse:
        manifest = await self._catalogue.resolve(request.model)
        settings = from_proto.settings_of(request.settings)
        was_loaded, model = await self._models.load(manifest, settings)
        loaded = to_proto.model_of(model, now=self._clock())
        return pb.LoadResponse(already_loaded=was_loaded, model=loaded)

    async def _unload(self, request: pb.UnloadRequest) -> pb.UnloadResponse:
        manifest = await self._catalogue.resolve(request.model)
        was_loaded = await self._models.unload(manifest, force=request.force)
        return pb.UnloadResponse(was_loaded=was_loaded)

    async def _loaded(self) -> pb.LoadedResponse:
        return to_proto.loaded_of(
            self._pool.models,
            self._pool.backing_off(),
            self._pool.memory_totals(),
            problems=self._pool.problems(),
            now=self._clock(),
        )

    async def _plan(self, request: pb.PlanRequest) -> pb.PlanResponse:
        manifest = await self._catalogue.resolve(request.model)
        settings = from_proto.settings_of(request.settings)
        return to_proto.plan_of(await self._models.preview_load(manifest, settings))

    async def _tokenize(self, request: pb.TokenizeRequest) -> pb.TokenizeResponse:
        manifest = await self._catalogue.resolve(request.model)
        ids = await self._models.tokenize(
            manifest, from_proto.pieces_of(request.text), add_special=request.text.add_special
        )
        return pb.TokenizeResponse(ids=ids)

    async def _health(self) -> pb.HealthResponse:
        return pb.HealthResponse(
            accepting=not self._pool.is_draining,
            version=__version__,
            models_loaded=sum(model.state is State.READY for model in self._pool.models),
            problems=self._pool.problems(),
        )


def status_of(error: SpindllError) -> grpc.StatusCode:
    """The gRPC status an error travels under."""
    return next(status for cls, status in GRPC_STATUS.items() if isinstance(error, cls))


async def _read(session: Session, frames: AsyncIterator[pb.ClientFrame]) -> None:
    async for frame in frames:
        session.take(frame)
    session.finish()


async def _answer(work: Awaitable[T], context: Any) -> T:
    """The answer, or the call's end with our error."""
    try:
        return await work
    except SpindllError as error:
        problem = error
    except Exception:
        logger.exception("call broke")
        problem = InternalError("internal error")
    return await _abort(context, problem)


async def _abort(context: Any, error: SpindllError) -> NoReturn:
    wire = quote(json.dumps(to_wire(error)))
    await context.abort(status_of(error), error.message, ((ERROR_KEY, wire),))
    raise AssertionError("abort raises")
