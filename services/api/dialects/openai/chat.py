"""POST /v1/chat/completions."""

from __future__ import annotations

import asyncio
import secrets
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from protos import engine_pb2
from services.api.dependencies import ApiParts, Parts, RequireUser, body_of
from services.api.dialects.openai.chat_response import ChatChunks, WholeChat
from services.api.dialects.openai.chat_schema import ChatRequest
from services.api.generation import to_engine
from services.api.generation.usage import Tally
from services.api.middleware.authentication import Principal
from services.api.prompts.render import Conversation, chat_prompt
from services.api.streaming.responses import streamed, whole

router = APIRouter()


@router.post("/v1/chat/completions")
async def create_chat_completion(
    request: Request,
    body: Annotated[ChatRequest, Depends(body_of(ChatRequest))],
    api: Parts,
    principal: RequireUser,
) -> Response:
    """Continue a conversation."""
    answer_id = f"chatcmpl-{secrets.token_hex(12)}"
    submit = await _submit(body, api, principal, answer_id)
    generation = await api.engine.generate([submit])
    tally = Tally(generation)
    if not body.stream:
        answer = WholeChat(answer_id, body.model, answers=generation.answers, tally=tally)
        return await whole(request, generation, answer)
    chunks = ChatChunks(
        answer_id,
        body.model,
        answers=generation.answers,
        tally=tally,
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
    )
    silence = api.settings.sse_keepalive_seconds
    return await streamed(request, generation, chunks, silence_seconds=silence)


async def _submit(
    body: ChatRequest, api: ApiParts, principal: Principal, answer_id: str
) -> engine_pb2.Submit:
    manifest = await api.on_demand.resolve(body.model, principal)
    conversation = Conversation(
        messages=to_engine.template_messages(body.messages),
        tools=to_engine.template_tools(body),
        options=to_engine.template_options(body),
        add_generation_prompt=body.add_generation_prompt is not False,
        continue_final_message=bool(body.continue_final_message),
    )
    prompt = await asyncio.to_thread(chat_prompt, manifest, conversation)
    envelope = to_engine.Envelope(
        trace_id=answer_id,
        model=manifest.name,
        principal=principal.id,
        timeout_seconds=api.settings.request_timeout_seconds or None,
    )
    return to_engine.chat_submit(body, prompt, envelope)
