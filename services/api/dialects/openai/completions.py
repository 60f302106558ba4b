"""POST /v1/completions."""

from __future__ import annotations

import secrets
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from services.api.dependencies import Parts, RequireUser
from services.api.dialects.openai.completions_response import CompletionResponse, CompletionStream
from services.api.dialects.openai.completions_schema import CompletionRequest
from services.api.dialects.openai.to_submit import RequestContext, completion_to_submits
from services.api.generation.usage import UsageCounter
from services.api.request_body import parse_body_as
from services.api.streaming.responses import respond_with_body, respond_with_stream

router = APIRouter()


@router.post("/v1/completions")
async def create_completion(
    request: Request,
    body: Annotated[CompletionRequest, Depends(parse_body_as(CompletionRequest))],
    api: Parts,
    principal: RequireUser,
) -> Response:
    """Continue one or several prompts."""
    response_id = f"cmpl-{secrets.token_hex(12)}"
    manifest = await api.pull_on_demand.resolve(body.model, principal)
    context = RequestContext(
        trace_id=response_id,
        model=manifest.name,
        principal=principal.id,
        timeout_seconds=api.settings.request_timeout_seconds,
    )
    generation = await api.engine.generate(completion_to_submits(body, context))
    usage = UsageCounter(generation)
    if not body.stream:
        response = CompletionResponse(
            response_id,
            body.model,
            echoes=_build_echoes(body),
            wants_logprobs=body.logprobs is not None,
            usage=usage,
        )
        return await respond_with_body(request, generation, response)
    stream = CompletionStream(
        response_id,
        body.model,
        echoes=[echo or "" for echo in _build_echoes(body)],
        usage=usage,
        include_usage=body.includes_usage,
    )
    return await respond_with_stream(
        request, generation, stream, keepalive_seconds=api.settings.sse_keepalive_seconds
    )


def _build_echoes(body: CompletionRequest) -> list[str | None]:
    """The prompt to repeat for each answer; empty where the prompt was given as token ids."""
    prompts = [prompt if isinstance(prompt, str) else "" for prompt in body.prompt]
    return [prompt if body.echo else None for prompt in prompts for _ in range(body.n or 1)]
