"""The requests for embeddings and for ranking, the same for every dialect."""

from __future__ import annotations

from dataclasses import dataclass

from services.api.access.principal import Principal
from services.api.generation.requests.generation_request import TextOrTokens


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingRequest:
    """Texts to compute one vector of each."""

    id: str  # in the logs
    model: str  # any name of it
    principal: Principal
    inputs: tuple[TextOrTokens, ...]
    truncate: bool = False  # shorten a text that is too long; otherwise it is an error
    dimensions: int | None = None  # None: all


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingRequest:
    """Documents to score for a query."""

    id: str
    model: str
    principal: Principal
    query: str
    documents: tuple[str, ...]
    truncate: bool = False
