"""POST /v1/embeddings."""

from __future__ import annotations

import asyncio
import secrets
import struct
from base64 import b64encode
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Request, Response

from services.api.dependencies import Parts, RequireUser
from services.api.dialects.openai.embeddings_schema import EmbeddingRequestBody
from services.api.generation.embedding_request import EmbeddingRequest
from services.api.generation.embeddings import Embeddings
from services.api.request_body import parse_body_as
from services.api.streaming.connection import run_while_connected

router = APIRouter()

_NUMBERS_AT_ONCE = 1 << 16  # written in 10 ms; in between, other requests are answered


@router.post("/v1/embeddings")
async def create_embeddings(
    request: Request,
    body: Annotated[EmbeddingRequestBody, Depends(parse_body_as(EmbeddingRequestBody))],
    api: Parts,
    principal: RequireUser,
) -> Response:
    """One vector for each input."""
    embedding_request = EmbeddingRequest(
        id=f"embd-{secrets.token_hex(12)}",
        model=body.model,
        principal=principal,
        inputs=tuple(text if isinstance(text, str) else tuple(text) for text in body.input),
        truncate=bool(body.truncate),
        dimensions=body.dimensions,
    )
    embeddings = await run_while_connected(request, api.embeddings.embed(embedding_request))
    content = await _write(embeddings, body)
    return Response(content, media_type="application/json")


async def _write(embeddings: Embeddings, body: EmbeddingRequestBody) -> bytes:
    """The response as JSON, entry by entry, because the numbers of many texts take seconds."""
    entries = []
    interval = max(_NUMBERS_AT_ONCE // embeddings.dimensions, 1)
    for index, vector in enumerate(embeddings.vectors):
        if index and index % interval == 0:
            await asyncio.sleep(0)
        value: object = (
            b64encode(vector).decode()
            if body.encoding_format == "base64"
            else struct.unpack(f"<{embeddings.dimensions}f", vector)
        )
        entries.append(
            msgspec.json.encode({"object": "embedding", "index": index, "embedding": value})
        )
    count = embeddings.prompt_tokens
    return msgspec.json.encode(
        {
            "object": "list",
            "data": [msgspec.Raw(entry) for entry in entries],
            "model": body.model,
            "usage": {"prompt_tokens": count, "total_tokens": count},
        }
    )
