"""What a text or a chat is for a model, without an answer.

POST /tokenize, /detokenize, /apply-template and /v1/chat/completions/input_tokens.
"""

from __future__ import annotations

import secrets
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Request, Response

from services.api.dependencies import Parts, RequireUser
from services.api.dialects.openai.schemas.chat_schema import ChatCompletionRequest
from services.api.dialects.openai.schemas.tokens_schema import (
    DetokenizeRequestBody,
    TokenizeRequestBody,
)
from services.api.dialects.openai.to_request import chat_to_request
from services.api.request_body import parse_body_as
from services.api.streaming.connection import run_while_connected

router = APIRouter()


@router.post("/tokenize")
async def tokenize(
    request: Request,
    body: Annotated[TokenizeRequestBody, Depends(parse_body_as(TokenizeRequestBody))],
    api: Parts,
    principal: RequireUser,
) -> Response:
    """The token ids of a text."""
    work = api.generations.tokenize(
        body.model,
        body.text,
        principal,
        add_special=body.adds_special,
        parse_special=body.parse_special is not False,
    )
    tokens = await run_while_connected(request, work)
    # FastAPI would look at each of a million numbers.
    content = msgspec.json.encode({"tokens": tokens, "count": len(tokens)})
    return Response(content, media_type="application/json")


@router.post("/detokenize")
async def detokenize(
    request: Request,
    body: Annotated[DetokenizeRequestBody, Depends(parse_body_as(DetokenizeRequestBody))],
    api: Parts,
    principal: RequireUser,
) -> dict[str, Any]:
    """The text of token ids: llama-server's name for it, and vLLM's."""
    work = api.generations.detokenize(body.model, body.tokens, principal)
    text = await run_while_connected(request, work)
    return {"content": text, "prompt": text}


@router.post("/apply-template")
async def apply_template(
    request: Request,
    body: Annotated[ChatCompletionRequest, Depends(parse_body_as(ChatCompletionRequest))],
    api: Parts,
    principal: RequireUser,
) -> dict[str, Any]:
    """The prompt of a chat, in the shape of llama-server."""
    chat = chat_to_request(body, f"template-{secrets.token_hex(12)}", principal)
    work = api.generations.apply_template(chat)
    return {"prompt": await run_while_connected(request, work)}


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
