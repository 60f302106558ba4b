"""Embeddings and ranking, the same for every dialect: resolve the model, ask the engine, log.

Nothing of it is kept in any cache.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass

from services.api.clients.engine_calls import EngineCalls
from services.api.generation.requests.embedding_request import EmbeddingRequest, RankingRequest
from services.api.generation.requests.request_checks import check_size
from services.api.generation.requests.time_limits import limit_time
from services.api.generation.requests.to_engine import build_embed, build_rerank
from services.api.models.pull_on_demand import PullOnDemand
from services.shared.errors import InvalidRequest
from services.shared.store.manifest import Capability, Manifest

logger = logging.getLogger(__name__)

# No key of a GGUF says that the beginning of a vector is a vector too. These architectures are
# used by models alone that were trained so: EmbeddingGemma, Jina v3, Nomic v2, Qwen3-Embedding.
_SHORTENED_ARCHITECTURES = frozenset({"gemma-embedding", "jina-bert-v3", "nomic-bert-moe", "qwen3"})


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors of length 1."""

    vectors: list[memoryview]  # float32, little-endian
    dimensions: int
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Ranking:
    """Scores in the order of the documents; a larger one is better."""

    raw_scores: list[float]
    scores: list[float]  # in 0 to 1
    prompt_tokens: int


class EmbeddingService:
    """See the module. `timeout_seconds`: the service's own limit; 0: none."""

    def __init__(
        self, models: PullOnDemand, engine: EngineCalls, *, timeout_seconds: float
    ) -> None:
        self._models = models
        self._engine = engine
        self._timeout_seconds = timeout_seconds

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Compute the vectors. Raises the errors of the model's name and of the engine."""
        check_size(sum(map(len, request.inputs)), "input")
        began = time.perf_counter()
        async with limit_time(self._timeout_seconds):
            embeddings = await self._embed(request)
        _log(request, len(request.inputs), embeddings.prompt_tokens, began)
        return embeddings

    async def rank(self, request: RankingRequest) -> Ranking:
        """Score the documents. Raises the errors of the model's name and of the engine."""
        check_size(len(request.query) + sum(map(len, request.documents)), "documents")
        began = time.perf_counter()
        async with limit_time(self._timeout_seconds):
            ranking = await self._rank(request)
        _log(request, len(request.documents), ranking.prompt_tokens, began)
        return ranking

    async def _embed(self, request: EmbeddingRequest) -> Embeddings:
        manifest = await self._models.resolve(request.model, request.principal)
        if request.dimensions is not None:
            _check_dimensions(manifest, request.dimensions)
        response = await self._engine.embed(build_embed(request, model=manifest.name))
        size = 4 * response.dimensions
        data = memoryview(response.vectors)
        vectors = [data[start : start + size] for start in range(0, len(data), size)]
        return Embeddings(vectors, response.dimensions, sum(response.tokens))

    async def _rank(self, request: RankingRequest) -> Ranking:
        manifest = await self._models.resolve(request.model, request.principal)
        response = await self._engine.rerank(build_rerank(request, model=manifest.name))
        raw = list(response.scores)
        scores = raw if response.is_probability else [_to_probability(score) for score in raw]
        return Ranking(raw, scores, sum(response.tokens))


def _check_dimensions(manifest: Manifest, dimensions: int) -> None:
    """InvalidRequest where the model was not trained for shorter vectors."""
    description = manifest.description
    if dimensions == description.embedding_length:
        return
    is_made_for_it = Capability.EMBEDDINGS in description.capabilities
    if not (is_made_for_it and description.architecture in _SHORTENED_ARCHITECTURES):
        raise InvalidRequest(
            "this model was not trained for shorter vectors: leave dimensions out",
            param="dimensions",
        )


def _to_probability(logit: float) -> float:
    """The logistic function; written so that no exponential overflows."""
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    return math.exp(logit) / (1 + math.exp(logit))


def _log(request: EmbeddingRequest | RankingRequest, texts: int, tokens: int, began: float) -> None:
    logger.info(
        "embedding",
        extra={
            "id": request.id,
            "model": request.model,
            "principal": request.principal.id,
            "texts": texts,
            "prompt_tokens": tokens,
            "seconds": round(time.perf_counter() - began, 4),
        },
    )
