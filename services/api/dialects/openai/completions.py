"""POST /v1/completions."""

from __future__ import annotations

import secrets
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from services.api.access.principal import Principal
from services.api.dependencies import Parts, PrivateCacheKey, RequireUser
from services.api.dialects.openai.responses.completions_response import (
    CompletionStream,
    build_completion,
    keep_best,
)
from services.api.dialects.openai.schemas.completions_schema import CompletionRequest
from services.api.dialects.openai.to_request import completion_to_request
from services.api.generation.service import GenerationService
from services.api.request_body import parse_body_as
from services.api.streaming.connection import run_while_connected
from services.api.streaming.responses import respond_with_body, respond_with_stream
from services.shared.errors import InvalidRequest

router = APIRouter()


@router.post("/v1/completions")
async def create_completion(
    request: Request,
    body: Annotated[CompletionRequest, Depends(parse_body_as(CompletionRequest))],
    api: Parts,
    principal: RequireUser,
    private_cache_key: PrivateCacheKey,
) -> Response:
    """Continue one or several prompts."""
    response_id = f"cmpl-{secrets.token_hex(12)}"
    echoes = await _build_echoes(request, body, api.generations, principal)
    generation = await api.generations.open(
        completion_to_request(body, response_id, principal, private_cache_key)
    )
    if not body.stream:
        return await respond_with_body(
            request,
            generation,
            lambda answers: build_completion(
                response_id,
                body.model,
                keep_best(answers, of=body.answers_per_prompt, kept=body.n or 1),
                generation.usage,
                echoes=echoes,
                wants_logprobs=body.logprobs is not None,
            ),
        )
    stream = CompletionStream(
        response_id,
        body.model,
        echoes=[echo or "" for echo in echoes],
        usage=generation.usage,
        include_usage=body.includes_usage,
    )
    return await respond_with_stream(
        request, generation, stream, keepalive_seconds=api.settings.sse_keepalive_seconds
    )


async def _build_echoes(
    request: Request, body: CompletionRequest, generations: GenerationService, principal: Principal
) -> list[str | None]:
    """The text of the prompt to repeat for each answer; None where it is not to be repeated."""
    count = body.n or 1
    if not body.echo:
        return [None] * (len(body.prompt) * count)
    echoes: list[str | None] = []
    for prompt in body.prompt:
        text = prompt
        if not isinstance(text, str):
            work = generations.detokenize(body.model, text, principal)
            try:
                text = await run_while_connected(request, work)
            except InvalidRequest as error:
                error.param = "prompt"
                raise
        echoes += [text] * count
    return echoes
