"""POST /v1/chat/completions."""

from __future__ import annotations

import asyncio
import secrets
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from services.api.dependencies import Parts, RequireUser
from services.api.dialects.openai.chat_response import ChatCompletionResponse, ChatCompletionStream
from services.api.dialects.openai.chat_schema import ChatCompletionRequest
from services.api.dialects.openai.to_submit import (
    RequestContext,
    chat_to_conversation,
    chat_to_submit,
)
from services.api.generation.usage import UsageCounter
from services.api.prompts.render import render_prompt
from services.api.request_body import parse_body_as
from services.api.streaming.responses import respond_with_body, respond_with_stream

router = APIRouter()


@router.post("/v1/chat/completions")
async def create_chat_completion(
    request: Request,
    body: Annotated[ChatCompletionRequest, Depends(parse_body_as(ChatCompletionRequest))],
    api: Parts,
    principal: RequireUser,
) -> Response:
    """Continue a conversation."""
    response_id = f"chatcmpl-{secrets.token_hex(12)}"
    manifest = await api.pull_on_demand.resolve(body.model, principal)
    prompt = await asyncio.to_thread(render_prompt, manifest, chat_to_conversation(body))
    context = RequestContext(
        trace_id=response_id,
        model=manifest.name,
        principal=principal.id,
        timeout_seconds=api.settings.request_timeout_seconds,
    )
    generation = await api.engine.generate([chat_to_submit(body, prompt, context)])
    usage = UsageCounter(generation)
    if not body.stream:
        response = ChatCompletionResponse(
            response_id, body.model, answer_count=generation.answer_count, usage=usage
        )
        return await respond_with_body(request, generation, response)
    stream = ChatCompletionStream(
        response_id,
        body.model,
        answer_count=generation.answer_count,
        usage=usage,
        include_usage=body.includes_usage,
    )
    return await respond_with_stream(
        request, generation, stream, keepalive_seconds=api.settings.sse_keepalive_seconds
    )
