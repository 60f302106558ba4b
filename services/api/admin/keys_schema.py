"""The body of `POST /v1/keys`, and how a key looks over HTTP."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from services.api.access.key_manager import ListedKey
from services.api.access.keys import ID_PREFIX, ApiKey, Role
from services.api.request_body import RequestBody

MAX_EXPIRY_SECONDS = 100 * 365 * 24 * 3600
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def _check_name(name: str) -> str:
    if not name.isprintable() or name != name.strip():
        raise ValueError("must be printable, without spaces at its ends")
    return name


def _check_tenant(tenant: str) -> str:
    if not _TENANT.fullmatch(tenant):
        raise ValueError(
            "must be 1 to 64 letters, digits and . _ -, and begin with one of the first"
        )
    if tenant.startswith(ID_PREFIX):
        # The id of a key is the tenant of a key that shares none.
        raise ValueError(f"must not begin with {ID_PREFIX}")
    return tenant


class KeyRequest(RequestBody):
    """`POST /v1/keys`."""

    name: Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_check_name)]
    role: Role = Role.USER
    tenant: Annotated[str, AfterValidator(_check_tenant)] | None = None
    expires_in_seconds: float | None = Field(default=None, gt=0, le=MAX_EXPIRY_SECONDS)


def listed_to_dict(listed: ListedKey) -> dict[str, Any]:
    """A key as the list shows it."""
    return {
        **key_to_dict(listed.key),
        "last_used_at": listed.last_used_at,
        "file": f"{listed.key.role.value}.key" if listed.is_file else None,
    }


def key_to_dict(key: ApiKey) -> dict[str, Any]:
    """A key without its text, which only its holder has."""
    return {
        "id": key.id,
        "object": "key",
        "name": key.name,
        "role": key.role.value,
        "tenant": key.tenant or None,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
    }
