"""The unary calls of engine.proto. Each raises the engine's own error, or EngineUnavailable."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote

import grpc
import grpc.aio
import msgspec

from protos import engine_pb2
from services.shared.errors import (
    DeadlineExceeded,
    EngineUnavailable,
    InternalError,
    SpindllError,
    from_wire,
)

if TYPE_CHECKING:  # exists in the type stubs only
    from protos.engine_pb2_grpc import EngineAsyncStub

logger = logging.getLogger(__name__)

_UNARY_SECONDS = 10.0
_DELETE_SECONDS = 120.0  # the headers of all stored prompts are read

R = TypeVar("R")


class EngineCalls:
    """See the module. `get_stub` returns the stub to call, or raises EngineUnavailable."""

    def __init__(
        self, get_stub: Callable[[], EngineAsyncStub], *, load_timeout_seconds: float
    ) -> None:
        self._get_stub = get_stub
        self._load_timeout_seconds = load_timeout_seconds

    async def load(self, model: str, settings: engine_pb2.ModelSettings) -> engine_pb2.LoadResponse:
        """Load a model; returns when it is ready."""
        request = engine_pb2.LoadRequest(model=model, settings=settings)
        return await _call(self._get_stub().Load(request, timeout=self._load_timeout_seconds))

    async def unload(self, model: str, *, force: bool = False) -> engine_pb2.UnloadResponse:
        """Unload a model; running requests finish first unless forced."""
        request = engine_pb2.UnloadRequest(model=model, force=force)
        return await _call(self._get_stub().Unload(request, timeout=self._load_timeout_seconds))

    async def find_context_lengths(self, models: Iterable[str]) -> Mapping[str, int]:
        """How many tokens a request to each of these models may have, by canonical name."""
        request = engine_pb2.ContextLengthsRequest(models=models)
        answer = await _call(self._get_stub().ContextLengths(request, timeout=_UNARY_SECONDS))
        return answer.context_lengths

    async def embed(self, request: engine_pb2.EmbedRequest) -> engine_pb2.EmbedResponse:
        """One vector for each input; loads the model. Cancelling the caller stops the work."""
        return await _call(self._get_stub().Embed(request, timeout=self._load_timeout_seconds))

    async def rerank(self, request: engine_pb2.RerankRequest) -> engine_pb2.RerankResponse:
        """A score for each document. As `embed`."""
        return await _call(self._get_stub().Rerank(request, timeout=self._load_timeout_seconds))

    async def tokenize(self, request: engine_pb2.TokenizeRequest) -> list[int]:
        """The token ids of a text; loads the model."""
        answer = await _call(self._get_stub().Tokenize(request, timeout=self._load_timeout_seconds))
        return list(answer.ids)

    async def detokenize(self, model: str, tokens: Iterable[int], *, principal: str) -> str:
        """The text of token ids; loads the model."""
        request = engine_pb2.DetokenizeRequest(model=model, ids=tokens, principal=principal)
        return (
            await _call(self._get_stub().Detokenize(request, timeout=self._load_timeout_seconds))
        ).text

    async def list_loaded(self) -> engine_pb2.LoadedResponse:
        """The loaded models, and the memory they take."""
        return await _call(
            self._get_stub().Loaded(engine_pb2.LoadedRequest(), timeout=_UNARY_SECONDS)
        )

    async def plan(self, model: str, settings: engine_pb2.ModelSettings) -> engine_pb2.PlanResponse:
        """What a load would do. A model that was never loaded takes longer: it needs a dry run."""
        request = engine_pb2.PlanRequest(model=model, settings=settings)
        return await _call(self._get_stub().Plan(request, timeout=self._load_timeout_seconds))

    async def read_cache_status(self, tenant: str | None) -> engine_pb2.CacheStatusResponse:
        """What is stored of computed prompts, of one tenant or of all."""
        request = engine_pb2.CacheStatusRequest(tenant=tenant)
        return await _call(self._get_stub().CacheStatus(request, timeout=_UNARY_SECONDS))

    async def delete_cache(
        self, *, tenant: str | None, model: str | None, older_than_seconds: float | None
    ) -> engine_pb2.DeleteCacheResponse:
        """Delete stored prompts that match all that is given."""
        request = engine_pb2.DeleteCacheRequest(
            tenant=tenant, model=model, older_than_seconds=older_than_seconds
        )
        return await _call(self._get_stub().DeleteCache(request, timeout=_DELETE_SECONDS))

    async def rotate_cache_keys(self, tenant: str | None) -> None:
        """Seal new stored prompts of one tenant or of all with new keys."""
        request = engine_pb2.RotateCacheKeysRequest(tenant=tenant)
        await _call(self._get_stub().RotateCacheKeys(request, timeout=_UNARY_SECONDS))

    async def create_prefix(self, request: engine_pb2.CreatePrefixRequest) -> engine_pb2.Prefix:
        """Compute a named prefix and keep it; loads the model. Cancelling the caller stops it."""
        return await _call(
            self._get_stub().CreatePrefix(request, timeout=self._load_timeout_seconds)
        )

    async def list_prefixes(self, tenant: str | None) -> list[engine_pb2.Prefix]:
        """The named prefixes of one tenant or of all."""
        request = engine_pb2.ListPrefixesRequest(tenant=tenant)
        answer = await _call(self._get_stub().ListPrefixes(request, timeout=_UNARY_SECONDS))
        return list(answer.prefixes)

    async def delete_prefix(self, tenant: str, name: str) -> None:
        """Forget a named prefix. NotFound."""
        request = engine_pb2.DeletePrefixRequest(tenant=tenant, name=name)
        await _call(self._get_stub().DeletePrefix(request, timeout=_UNARY_SECONDS))

    async def check_health(self) -> engine_pb2.HealthResponse:
        """Whether the engine accepts requests."""
        return await _call(
            self._get_stub().Health(engine_pb2.HealthRequest(), timeout=_UNARY_SECONDS)
        )


async def _call(call: Awaitable[R]) -> R:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise error_from_rpc(error) from error
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        # Not this task was cancelled but the call: `close` ended its channel.
        raise EngineUnavailable("the service is stopping; try again") from None


def error_from_rpc(error: grpc.aio.AioRpcError) -> SpindllError:
    """The error for a failed call: the engine's own error if it sent one."""
    for name, value in error.trailing_metadata() or ():
        if name == "spindll-error":
            return from_wire(msgspec.json.decode(unquote(str(value))))
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return EngineUnavailable("the engine does not answer; try again shortly")
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded("the engine took too long")
    logger.error("engine call failed", extra={"status": error.code().name})
    return InternalError("internal error")
