"""POST /v1/completions."""

from __future__ import annotations

import secrets
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from services.api.dependencies import Parts, RequireUser, body_of
from services.api.dialects.openai.completions_response import CompletionChunks, WholeCompletion
from services.api.dialects.openai.completions_schema import CompletionRequest
from services.api.generation import to_engine
from services.api.generation.usage import Tally
from services.api.streaming.responses import streamed, whole

router = APIRouter()


@router.post("/v1/completions")
async def create_completion(
    request: Request,
    body: Annotated[CompletionRequest, Depends(body_of(CompletionRequest))],
    api: Parts,
    principal: RequireUser,
) -> Response:
    """Continue one or several texts."""
    answer_id = f"cmpl-{secrets.token_hex(12)}"
    manifest = await api.on_demand.resolve(body.model, principal)
    envelope = to_engine.Envelope(
        trace_id=answer_id,
        model=manifest.name,
        principal=principal.id,
        timeout_seconds=api.settings.request_timeout_seconds or None,
    )
    generation = await api.engine.generate(to_engine.completion_submits(body, envelope))
    if not body.stream:
        return await whole(request, generation, _whole(body, answer_id, Tally(generation)))
    chunks = CompletionChunks(
        answer_id,
        body.model,
        echoes=[echo or "" for echo in _echoes(body)],
        tally=Tally(generation),
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
    )
    silence = api.settings.sse_keepalive_seconds
    return await streamed(request, generation, chunks, silence_seconds=silence)


def _whole(body: CompletionRequest, answer_id: str, tally: Tally) -> WholeCompletion:
    return WholeCompletion(
        answer_id,
        body.model,
        echoes=_echoes(body),
        wants_logprobs=body.logprobs is not None,
        tally=tally,
    )


def _echoes(body: CompletionRequest) -> list[str | None]:
    """For each answer the prompt to repeat; empty where it was given as token ids."""
    prompts = [prompt if isinstance(prompt, str) else "" for prompt in body.prompt]
    return [prompt if body.echo else None for prompt in prompts for _ in range(body.n or 1)]
