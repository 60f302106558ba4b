"""The gRPC server of the engine: one method for each rpc of engine.proto.

Errors of a session are sent as events, those of unary calls as answering.py says.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from grpc import aio

from protos import engine_pb2 as pb
from protos.engine_pb2_grpc import EngineServicer, add_EngineServicer_to_server
from services import __version__
from services.engine.front.cache_index.prompt_cache import PromptCache
from services.engine.front.gpu_check import GpuCheck
from services.engine.front.models.manager import ModelManager
from services.engine.front.models.manifest_cache import ManifestCache
from services.engine.front.models.model_state import ModelState
from services.engine.front.models.pool import ModelPool
from services.engine.front.prefix_keeper import PrefixKeeper
from services.engine.front.rpc import from_proto, to_proto
from services.engine.front.rpc.answering import answer
from services.engine.front.rpc.cache_rpcs import CacheRpcs
from services.engine.front.rpc.embedding_rpcs import EmbeddingRpcs
from services.engine.front.rpc.prefix_rpcs import PrefixRpcs
from services.engine.front.rpc.session import Session
from services.shared.errors import InvalidModelName, ModelNotFound
from services.shared.limits import MAX_MESSAGE_BYTES

_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Notice within a minute that a peer's host or network is gone.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    # Two engines on one port would share its clients: the second engine must fail instead.
    ("grpc.so_reuseport", 0),
]

logger = logging.getLogger(__name__)


class EngineServer(EngineServicer):
    """The servicer of engine.proto and the gRPC server that runs it."""

    def __init__(
        self,
        manager: ModelManager,
        pool: ModelPool,
        manifests: ManifestCache,
        prompt_cache: PromptCache,
        keeper: PrefixKeeper,
        gpu: GpuCheck,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._manager = manager
        self._pool = pool
        self._gpu = gpu
        self._clock = clock
        self._manifests = manifests
        self._prompt_cache = prompt_cache
        self._cache_rpcs = CacheRpcs(prompt_cache, manifests)
        self._prefix_rpcs = PrefixRpcs(keeper, manifests)
        self._embedding_rpcs = EmbeddingRpcs(manager, manifests)
        self._sessions: set[Session] = set()
        self._server = aio.server(options=_OPTIONS)
        add_EngineServicer_to_server(self, self._server)

    async def listen(self, address: str) -> int:
        """Start to serve; the port, if the address has one. RuntimeError: the address is taken."""
        port = self._server.add_insecure_port(address)
        await self._server.start()
        return port

    async def finish(self, *, grace_seconds: float) -> None:
        """Let the sessions send the events they have, then close their streams."""
        for session in self._sessions:
            session.finish()
        await self._server.stop(grace_seconds)

    async def Session(  # noqa: N802
        self,
        request_iterator: AsyncIterator[pb.ClientFrame],
        context: Any,
    ) -> AsyncIterator[pb.EngineFrame]:
        """See engine.proto. This task is the only one that writes to the stream."""
        session = Session(
            self._manager, self._manifests, self._prompt_cache.open_realm, clock=self._clock
        )
        self._sessions.add(session)
        # Not only in `finally`: a generator that is not awaited when the call ends is closed some
        # time later, and until then its requests would keep running.
        context.add_done_callback(lambda _: session.close())
        reader = asyncio.create_task(read_frames(session, request_iterator))
        try:
            while items := await session.events.take():
                yield to_proto.build_frame(items)
        finally:
            reader.cancel()
            session.close()
            self._sessions.discard(session)

    async def Load(self, request: pb.LoadRequest, context: Any) -> pb.LoadResponse:  # noqa: N802
        """See engine.proto."""
        return await answer(self._load(request), context)

    async def Unload(  # noqa: N802
        self, request: pb.UnloadRequest, context: Any
    ) -> pb.UnloadResponse:
        """See engine.proto."""
        return await answer(self._unload(request), context)

    async def Loaded(  # noqa: N802
        self, request: pb.LoadedRequest, context: Any
    ) -> pb.LoadedResponse:
        """See engine.proto."""
        return await answer(self._loaded(), context)

    async def Plan(self, request: pb.PlanRequest, context: Any) -> pb.PlanResponse:  # noqa: N802
        """See engine.proto."""
        return await answer(self._plan(request), context)

    async def Tokenize(  # noqa: N802
        self, request: pb.TokenizeRequest, context: Any
    ) -> pb.TokenizeResponse:
        """See engine.proto."""
        return await answer(self._tokenize(request), context)

    async def Detokenize(  # noqa: N802
        self, request: pb.DetokenizeRequest, context: Any
    ) -> pb.DetokenizeResponse:
        """See engine.proto."""
        return await answer(self._detokenize(request), context)

    async def Embed(  # noqa: N802
        self, request: pb.EmbedRequest, context: Any
    ) -> pb.EmbedResponse:
        """See engine.proto."""
        return await answer(self._embedding_rpcs.embed(request), context)

    async def Rerank(  # noqa: N802
        self, request: pb.RerankRequest, context: Any
    ) -> pb.RerankResponse:
        """See engine.proto."""
        return await answer(self._embedding_rpcs.rerank(request), context)

    async def ContextLengths(  # noqa: N802
        self, request: pb.ContextLengthsRequest, context: Any
    ) -> pb.ContextLengthsResponse:
        """See engine.proto."""
        return await answer(self._context_lengths(request), context)

    async def CacheStatus(  # noqa: N802
        self, request: pb.CacheStatusRequest, context: Any
    ) -> pb.CacheStatusResponse:
        """See engine.proto."""
        return await answer(self._cache_rpcs.read_status(request), context)

    async def DeleteCache(  # noqa: N802
        self, request: pb.DeleteCacheRequest, context: Any
    ) -> pb.DeleteCacheResponse:
        """See engine.proto."""
        return await answer(self._cache_rpcs.delete(request), context)

    async def RotateCacheKeys(  # noqa: N802
        self, request: pb.RotateCacheKeysRequest, context: Any
    ) -> pb.RotateCacheKeysResponse:
        """See engine.proto."""
        return await answer(self._cache_rpcs.rotate_keys(request), context)

    async def CreatePrefix(  # noqa: N802
        self, request: pb.CreatePrefixRequest, context: Any
    ) -> pb.Prefix:
        """See engine.proto."""
        return await answer(self._prefix_rpcs.create(request), context)

    async def ListPrefixes(  # noqa: N802
        self, request: pb.ListPrefixesRequest, context: Any
    ) -> pb.ListPrefixesResponse:
        """See engine.proto."""
        return await answer(self._prefix_rpcs.list(request), context)

    async def DeletePrefix(  # noqa: N802
        self, request: pb.DeletePrefixRequest, context: Any
    ) -> pb.DeletePrefixResponse:
        """See engine.proto."""
        return await answer(self._prefix_rpcs.delete(request), context)

    async def Health(  # noqa: N802
        self, request: pb.HealthRequest, context: Any
    ) -> pb.HealthResponse:
        """See engine.proto."""
        return await answer(self._health(), context)

    async def _load(self, request: pb.LoadRequest) -> pb.LoadResponse:
        manifest = await self._manifests.resolve(request.model)
        settings = from_proto.parse_model_settings(request.settings)
        was_loaded, model = await self._manager.load(manifest, settings)
        loaded = to_proto.build_loaded_model(model, now=self._clock())
        return pb.LoadResponse(already_loaded=was_loaded, model=loaded)

    async def _unload(self, request: pb.UnloadRequest) -> pb.UnloadResponse:
        try:
            manifest = await self._manifests.resolve(request.model)
        except ModelNotFound:
            model = self._pool.get_by_name(request.model)
            if model is None:
                raise
            manifest = model.manifest
        was_loaded = await self._manager.unload(manifest, force=request.force)
        return pb.UnloadResponse(was_loaded=was_loaded)

    async def _context_lengths(
        self, request: pb.ContextLengthsRequest
    ) -> pb.ContextLengthsResponse:
        response = pb.ContextLengthsResponse()
        for name in request.models:
            with suppress(ModelNotFound, InvalidModelName):
                manifest = await self._manifests.resolve(name)
                response.context_lengths[name] = self._pool.find_context_length(manifest)
        return response

    async def _loaded(self) -> pb.LoadedResponse:
        return to_proto.build_loaded_response(
            self._pool.models,
            self._pool.list_backing_off(),
            self._pool.measure_memory(),
            problems=self._list_problems(),
            now=self._clock(),
        )

    async def _plan(self, request: pb.PlanRequest) -> pb.PlanResponse:
        manifest = await self._manifests.resolve(request.model)
        settings = from_proto.parse_model_settings(request.settings)
        return to_proto.build_plan_response(await self._manager.preview_load(manifest, settings))

    async def _tokenize(self, request: pb.TokenizeRequest) -> pb.TokenizeResponse:
        manifest = await self._manifests.resolve(request.model)
        ids = await self._manager.tokenize(
            manifest,
            from_proto.parse_pieces(request.text),
            add_special=request.text.add_special,
            principal=request.principal,
        )
        return pb.TokenizeResponse(ids=ids)

    async def _detokenize(self, request: pb.DetokenizeRequest) -> pb.DetokenizeResponse:
        manifest = await self._manifests.resolve(request.model)
        tokens = from_proto.parse_tokens(request)
        text = await self._manager.detokenize(manifest, tokens, principal=request.principal)
        return pb.DetokenizeResponse(text=text)

    async def _health(self) -> pb.HealthResponse:
        return pb.HealthResponse(
            accepting=not self._pool.is_draining,
            version=__version__,
            models_loaded=sum(model.state is ModelState.READY for model in self._pool.models),
            problems=self._list_problems(),
            lacks_required_gpu=self._gpu.refusal is not None,
        )

    def _list_problems(self) -> list[str]:
        return [*self._gpu.problems, *self._pool.list_problems()]


async def read_frames(session: Session, frames: AsyncIterator[pb.ClientFrame]) -> None:
    """Pass the frames of the stream on. A failure ends the session: it would be deaf otherwise."""
    try:
        async for frame in frames:
            session.receive(frame)
    except Exception:
        logger.exception("frames of a session cannot be read")
        session.close()
    else:
        session.finish()
