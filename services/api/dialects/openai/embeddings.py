"""POST /v1/embeddings."""

from __future__ import annotations

import asyncio
import secrets
import struct
from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Request, Response
from starlette.responses import StreamingResponse

from services.api.dependencies import Parts, RequireUser
from services.api.dialects.openai.schemas.embeddings_schema import EmbeddingRequestBody
from services.api.generation.embeddings import Embeddings
from services.api.generation.requests.embedding_request import EmbeddingRequest
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
    return StreamingResponse(_write(embeddings, body), media_type="application/json")


async def _write(embeddings: Embeddings, body: EmbeddingRequestBody) -> AsyncIterator[bytes]:
    """The response as JSON, in parts: the numbers of many texts are hundreds of MiB."""
    vectors, interval = embeddings.vectors, max(_NUMBERS_AT_ONCE // embeddings.dimensions, 1)
    separator = b'{"object":"list","data":['
    for start in range(0, len(vectors), interval):
        numbers = range(start, min(start + interval, len(vectors)))
        entries = [_encode_entry(n, vectors[n], body.encoding_format) for n in numbers]
        yield separator + b",".join(entries)
        separator = b","
        await asyncio.sleep(0)
    count = embeddings.prompt_tokens
    end = {"model": body.model, "usage": {"prompt_tokens": count, "total_tokens": count}}
    yield b"]," + msgspec.json.encode(end)[1:]


def _encode_entry(index: int, vector: memoryview, encoding: str | None) -> bytes:
    value: object = (
        b64encode(vector).decode()
        if encoding == "base64"
        else struct.unpack(f"<{len(vector) // 4}f", vector)
    )
    return msgspec.json.encode({"object": "embedding", "index": index, "embedding": value})
