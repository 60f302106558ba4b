"""API keys: list, create and revoke them. All need the admin key."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from services.api.admin.keys_schema import KeyRequest, key_to_dict, listed_to_dict
from services.api.dependencies import Parts, RequireAdmin
from services.api.request_body import parse_body_as

router = APIRouter()


@router.get("/v1/keys")
async def list_keys(api: Parts, _: RequireAdmin) -> dict[str, Any]:
    """All keys, without their texts."""
    return {"object": "list", "data": [listed_to_dict(key) for key in await api.keys.list()]}


@router.post("/v1/keys", status_code=201)
async def create_key(
    _: RequireAdmin,
    body: Annotated[KeyRequest, Depends(parse_body_as(KeyRequest))],
    api: Parts,
) -> dict[str, Any]:
    """Create a key; only this answer has its text. Every worker accepts it then."""
    key, text = await api.keys.create(
        body.name,
        role=body.role,
        tenant=body.tenant or "",
        expires_in_seconds=body.expires_in_seconds,
    )
    return {**key_to_dict(key), "key": text}


@router.delete("/v1/keys/{key_id}")
async def revoke_key(key_id: str, api: Parts, _: RequireAdmin) -> dict[str, Any]:
    """End a key: no worker accepts it two seconds later. Answers that run are completed."""
    key = await api.keys.revoke(key_id)
    return {"id": key.id, "object": "key", "deleted": True}
