"""POST /tokenize and POST /v1/chat/completions/input_tokens: what a prompt is for a model."""

from __future__ import annotations

import secrets
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from services.api.dependencies import Parts, RequireUser
from services.api.dialects.openai.chat_schema import ChatCompletionRequest
from services.api.dialects.openai.to_request import chat_to_request
from services.api.dialects.openai.tokens_schema import TokenizeRequestBody
from services.api.request_body import parse_body_as
from services.api.streaming.connection import run_while_connected

router = APIRouter()


@router.post("/tokenize")
async def tokenize(
    request: Request,
    body: Annotated[TokenizeRequestBody, Depends(parse_body_as(TokenizeRequestBody))],
    api: Parts,
    principal: RequireUser,
) -> dict[str, Any]:
    """The token ids of a text."""
    work = api.generations.tokenize(
        body.model,
        body.text,
        principal,
        add_special=body.adds_special,
        parse_special=body.parse_special is not False,
    )
    tokens = await run_while_connected(request, work)
    return {"tokens": tokens, "count": len(tokens)}


@router.post("/v1/chat/completions/input_tokens")
async def count_input_tokens(
    request: Request,
    body: Annotated[ChatCompletionRequest, Depends(parse_body_as(ChatCompletionRequest))],
    api: Parts,
    principal: RequireUser,
) -> dict[str, Any]:
    """How many tokens the prompt of a chat has, without an answer."""
    chat = chat_to_request(body, f"count-{secrets.token_hex(12)}", principal)
    count = await run_while_connected(request, api.generations.count_prompt_tokens(chat))
    return {"object": "response.input_tokens", "input_tokens": count}
