"""Named prefixes: what many chats begin with, computed ahead and kept.

A prefix belongs to the tenant of the key that made it. A user sees its own; an admin sees all, and
may name another tenant.
"""

from __future__ import annotations

import secrets
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from google.protobuf.message import Message

from services.api.access.principal import Principal
from services.api.admin.cache import TenantName, choose_tenant
from services.api.admin.engine_json import message_to_dict
from services.api.dependencies import ApiParts, Parts, PrivateCacheKey, RequireUser
from services.api.dialects.openai.schemas.chat_schema import ChatCompletionRequest
from services.api.dialects.openai.schemas.prefixes_schema import PrefixRequest
from services.api.dialects.openai.to_request import chat_to_request
from services.api.generation.requests.generation_request import GenerationRequest
from services.api.request_body import parse_body_as
from services.api.streaming.connection import run_while_connected
from services.shared.errors import InvalidRequest, NotFound

router = APIRouter()


@router.post("/v1/prefixes")
async def create_prefix(
    request: Request,
    body: Annotated[PrefixRequest, Depends(parse_body_as(PrefixRequest))],
    api: Parts,
    principal: RequireUser,
    private_cache_key: PrivateCacheKey,
) -> dict[str, Any]:
    """Compute a prefix and keep it; replaces the one of the same name."""
    if private_cache_key:
        raise InvalidRequest(
            "a named prefix has no private key: it is computed again without its client",
            param="X-Spindll-Cache-Key",
        )
    work = api.generations.create_prefix(_to_request(body, principal), body.name)
    return _to_dict(await run_while_connected(request, work))


@router.get("/v1/prefixes")
async def list_prefixes(
    api: Parts, principal: RequireUser, tenant: TenantName = None
) -> dict[str, Any]:
    """The prefixes, the oldest first, without their texts."""
    prefixes = await api.engine.calls.list_prefixes(choose_tenant(api, principal, tenant))
    return {"object": "list", "data": [_to_dict(prefix) for prefix in prefixes]}


@router.get("/v1/prefixes/{name}")
async def show_prefix(
    name: str, api: Parts, principal: RequireUser, tenant: TenantName = None
) -> dict[str, Any]:
    """One prefix, without its text."""
    for prefix in await api.engine.calls.list_prefixes(_find_owner(api, principal, tenant)):
        if prefix.name == name:
            return _to_dict(prefix)
    raise NotFound(f"there is no prefix {name!r}")


@router.delete("/v1/prefixes/{name}")
async def delete_prefix(
    name: str, api: Parts, principal: RequireUser, tenant: TenantName = None
) -> dict[str, Any]:
    """Forget a prefix. What is stored of it stays until it is evicted."""
    await api.engine.calls.delete_prefix(_find_owner(api, principal, tenant), name)
    return {"object": "prefix", "name": name, "deleted": True}


def _find_owner(api: ApiParts, principal: Principal, tenant: str | None) -> str:
    """The tenant whose prefix is meant; without a name, an admin's own."""
    return choose_tenant(api, principal, tenant) or api.generations.find_tenant(principal)


def _to_request(body: PrefixRequest, principal: Principal) -> GenerationRequest:
    """The request whose prompt is the prefix: a chat up to the end of its last message."""
    id_ = f"prefix-{secrets.token_hex(12)}"
    if body.prompt is not None:
        prompt = body.prompt if isinstance(body.prompt, str) else tuple(body.prompt)
        return GenerationRequest(id=id_, model=body.model, principal=principal, prompt=(prompt,))
    chat = ChatCompletionRequest(
        model=body.model,
        messages=body.messages or [],
        tools=body.tools,
        chat_template_kwargs=body.chat_template_kwargs,
        reasoning_effort=body.reasoning_effort,
        enable_thinking=body.enable_thinking,
        add_generation_prompt=False,
        continue_final_message=False,
    )
    return chat_to_request(chat, id_, principal)


def _to_dict(prefix: Message) -> dict[str, Any]:
    return {"object": "prefix", **message_to_dict(prefix)}
