"""Routes of the prompt cache: what is stored, deletion, new keys.

A user sees and deletes what its own tenant stored; an admin names a tenant, or means all of them.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from google.protobuf.message import Message

from services.api.access.keys import Role
from services.api.access.principal import Principal
from services.api.admin.engine_json import message_to_dict
from services.api.dependencies import ApiParts, Parts, RequireAdmin, RequireUser
from services.shared.errors import InvalidRequest, PermissionDenied

router = APIRouter()

_SHOWN_TO_USERS = ("name", "budget_bytes", "bytes")

TenantName = Annotated[str | None, Query(min_length=1, max_length=256)]


@router.get("/v1/cache")
async def show_cache(
    api: Parts, principal: RequireUser, tenant: TenantName = None
) -> dict[str, Any]:
    """What is stored of computed prompts, in bytes."""
    chosen = choose_tenant(api, principal, tenant)
    status = await api.engine.calls.read_cache_status(chosen)
    return {
        "object": "cache",
        "tenant": chosen,
        "tiers": [_tier_to_dict(tier, of_all=chosen is None) for tier in status.tiers],
    }


@router.delete("/v1/cache")
async def delete_cache(
    api: Parts,
    principal: RequireUser,
    *,
    tenant: TenantName = None,
    everyone: Annotated[bool, Query(alias="all", description="Of all tenants.")] = False,
    model: Annotated[str | None, Query(max_length=2048)] = None,
    older_than: Annotated[
        float | None, Query(ge=0, allow_inf_nan=False, description="Unused for so many seconds.")
    ] = None,
) -> dict[str, Any]:
    """Delete stored prompts. All those of a tenant, or of everyone, are unreadable at once."""
    chosen = choose_tenant(api, principal, tenant)
    if chosen is None and not everyone:
        raise InvalidRequest("name a tenant, or say all=true", param="tenant")
    if chosen is not None and everyone:
        raise InvalidRequest("either a tenant or all=true", param="all")
    name = (await api.catalog.resolve(model)).name if model is not None else None
    deleted = await api.engine.calls.delete_cache(
        tenant=chosen, model=name, older_than_seconds=older_than
    )
    return {
        "object": "cache",
        "deleted": True,
        "entries": deleted.entries,
        "bytes": deleted.bytes,
    }


@router.post("/v1/cache/rotate")
async def rotate_keys(api: Parts, _: RequireAdmin, tenant: TenantName = None) -> dict[str, Any]:
    """Seal new stored prompts, of one tenant or of all, with new keys."""
    await api.engine.calls.rotate_cache_keys(tenant)
    return {"object": "cache", "tenant": tenant, "rotated": True}


def choose_tenant(api: ApiParts, principal: Principal, tenant: str | None) -> str | None:
    """The tenant that is meant; None for all. PermissionDenied for a user who names another."""
    if principal.role is Role.ADMIN:
        return tenant
    own = api.generations.find_tenant(principal)
    if tenant not in (None, own):
        raise PermissionDenied("only an admin key may see another tenant")
    return own


def _tier_to_dict(tier: Message, *, of_all: bool) -> dict[str, Any]:
    shown = message_to_dict(tier)
    return shown if of_all else {name: shown[name] for name in _SHOWN_TO_USERS}
