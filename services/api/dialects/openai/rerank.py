"""POST /v1/rerank and /rerank, in the shapes of Jina and Cohere, and of text-embeddings-inference."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from services.api.dependencies import Parts, RequireUser
from services.api.dialects.openai.schemas.embeddings_schema import RerankRequestBody
from services.api.generation.embeddings import Ranking
from services.api.generation.requests.embedding_request import RankingRequest
from services.api.models.catalog import Catalog
from services.api.request_body import parse_body_as
from services.api.streaming.connection import run_while_connected
from services.shared.errors import InvalidRequest
from services.shared.store.manifest import Capability

router = APIRouter()


@router.post("/v1/rerank", response_model=None)
@router.post("/rerank", response_model=None)
async def rerank(
    request: Request,
    body: Annotated[RerankRequestBody, Depends(parse_body_as(RerankRequestBody))],
    api: Parts,
    principal: RequireUser,
) -> dict[str, Any] | list[dict[str, Any]]:
    """The documents that answer the query best, first."""
    documents = tuple(body.texts or body.documents or ())
    ranking_request = RankingRequest(
        id=f"rank-{secrets.token_hex(12)}",
        model=body.model or await _find_only_ranker(api.catalog),
        principal=principal,
        query=body.query,
        documents=documents,
        # Jina and Cohere shorten documents without being asked; TEI refuses.
        truncate=not body.is_tei if body.truncate is None else body.truncate,
    )
    ranking = await run_while_connected(request, api.embeddings.rank(ranking_request))
    if body.is_tei:
        return _build_tei_response(body, documents, ranking)
    return _build_response(ranking_request, body, ranking)


async def _find_only_ranker(catalog: Catalog) -> str:
    """The name of the model that ranks. InvalidRequest where there is none, or a choice."""
    names = [
        manifest.name
        for manifest in await catalog.list()
        if Capability.RERANK in manifest.description.capabilities
    ]
    if len(names) != 1:
        raise InvalidRequest(f"model is required: {len(names)} stored models rank", param="model")
    return names[0]


def _build_response(
    request: RankingRequest, body: RerankRequestBody, ranking: Ranking
) -> dict[str, Any]:
    results: list[dict[str, Any]] = [
        {"index": index, "relevance_score": ranking.scores[index]}
        for index in _sort(ranking.raw_scores)[: body.top_n]
    ]
    if body.return_documents:
        for result in results:
            result["document"] = {"text": request.documents[result["index"]]}
    count = ranking.prompt_tokens
    return {
        "id": request.id,
        "model": request.model,
        "results": results,
        "usage": {"prompt_tokens": count, "total_tokens": count},
    }


def _build_tei_response(
    body: RerankRequestBody, documents: Sequence[str], ranking: Ranking
) -> list[dict[str, Any]]:
    scores = ranking.raw_scores if body.raw_scores else ranking.scores
    return [
        {"index": index, "score": scores[index]}
        | ({"text": documents[index]} if body.return_text else {})
        for index in _sort(ranking.raw_scores)
    ]


def _sort(raw_scores: Sequence[float]) -> list[int]:
    """The numbers of the documents, best first; those with equal scores keep their order.

    By the raw scores: those in 0 to 1 of two good documents may be equal.
    """
    return sorted(range(len(raw_scores)), key=lambda index: -raw_scores[index])
