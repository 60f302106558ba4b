"""POST /v1/chat/completions."""

from __future__ import annotations

import secrets
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from services.api.dependencies import Parts, PrivateCacheKey, RequireUser
from services.api.dialects.openai.responses.chat_response import (
    ChatCompletionStream,
    build_chat_completion,
)
from services.api.dialects.openai.schemas.chat_schema import ChatCompletionRequest
from services.api.dialects.openai.to_request import chat_to_request
from services.api.request_body import parse_body_as
from services.api.streaming.responses import respond_with_body, respond_with_stream

router = APIRouter()


@router.post("/v1/chat/completions")
async def create_chat_completion(
    request: Request,
    body: Annotated[ChatCompletionRequest, Depends(parse_body_as(ChatCompletionRequest))],
    api: Parts,
    principal: RequireUser,
    private_cache_key: PrivateCacheKey,
) -> Response:
    """Continue a conversation."""
    response_id = f"chatcmpl-{secrets.token_hex(12)}"
    generation = await api.generations.open(
        chat_to_request(body, response_id, principal, private_cache_key)
    )
    if not body.stream:
        return await respond_with_body(
            request,
            generation,
            lambda answers: build_chat_completion(
                response_id,
                body.model,
                answers,
                generation.usage,
                has_functions=body.has_functions,
                hides_thinking=body.hides_thinking,
            ),
        )
    stream = ChatCompletionStream(
        response_id,
        body.model,
        answer_count=generation.answer_count,
        usage=generation.usage,
        include_usage=body.includes_usage,
        has_functions=body.has_functions,
        hides_thinking=body.hides_thinking,
    )
    return await respond_with_stream(
        request, generation, stream, keepalive_seconds=api.settings.sse_keepalive_seconds
    )
