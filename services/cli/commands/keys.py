"""`keys`: the API keys of the server."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from services.cli import formatting
from services.cli.api_client import ApiClient, JsonObject
from services.cli.connection import find_connection
from services.cli.errors import CommandError
from services.cli.paths import StackPaths
from services.cli.tables import add_row, new_table, print_table

_LIFETIME = re.compile(r"(\d+)([mhd])")
_MIN_ID_DIGITS = 4
_UNIT_SECONDS = {"m": 60, "h": 3600, "d": 86400}


def list_keys(paths: StackPaths) -> None:
    """Print one line per key."""
    with ApiClient(find_connection(paths)) as api:
        keys = _fetch_keys(api)
    table = new_table("ID", "NAME", "ROLE", "TENANT", "CREATED", "EXPIRES", "LAST USED")
    for key in keys:
        add_row(table, format_row(key, now=time.time()))
    print_table(table, "no keys")


def create(
    paths: StackPaths, name: str, *, role: str, tenant: str | None, expires: str | None
) -> None:
    """Print a new key to stdout, and what to do with it to stderr."""
    lifetime = None if expires is None else parse_lifetime(expires)
    body = {"name": name, "role": role, "tenant": tenant, "expires_in_seconds": lifetime}
    with ApiClient(find_connection(paths)) as api:
        key = api.post("/v1/keys", body)
    print(f"{key['id']}: save this key now, it is not shown again", file=sys.stderr)
    print(key["key"])


def revoke(paths: StackPaths, text: str) -> None:
    """End the key with an id or a name. Raises CommandError when there is none, or several."""
    with ApiClient(find_connection(paths)) as api:
        key = find_key(_fetch_keys(api), text)
        api.delete(f"/v1/keys/{key['id']}")
    print(formatting.printable(f"revoked {key['name']} ({key['id']})"))


def parse_lifetime(text: str) -> int:
    """The seconds of `30d`, `12h` or `45m`. Raises CommandError."""
    match = _LIFETIME.fullmatch(text.strip())
    if match is None:
        raise CommandError(f"--expires {text}: write a number of days, hours or minutes, as 30d")
    return int(match[1]) * _UNIT_SECONDS[match[2]]


def find_key(keys: Sequence[JsonObject], text: str) -> JsonObject:
    """The key that a text names: an id, or a name or the start of an id of at least 4 digits.

    An id may be without its `key_`. Raises CommandError when there is none, or several: a short
    name of a key that is gone must not end another key.
    """
    start = f"key_{text.removeprefix('key_')}"
    is_start = len(start) >= len("key_") + _MIN_ID_DIGITS
    found = [key for key in keys if key["id"] == start] or [
        key
        for key in keys
        if key["name"] == text or (is_start and str(key["id"]).startswith(start))
    ]
    if not found:
        raise CommandError(f"no key has the id or the name {text!r}; `keys list` shows them")
    if len(found) > 1:
        ids = ", ".join(str(key["id"]) for key in found)
        raise CommandError(f"several keys match {text!r}: {ids}")
    return found[0]


def format_row(key: JsonObject, *, now: float) -> list[str]:
    """The cells of a key; a missing value is a dash."""
    file = key.get("file")
    return [
        str(key["id"]),
        f"{key['name']} (file {file})" if file else str(key["name"]),
        str(key["role"]),
        str(key.get("tenant") or "-"),
        datetime.fromtimestamp(float(key["created_at"]), UTC).strftime("%Y-%m-%d"),
        _format_expiry(key.get("expires_at"), now),
        _format_use(key.get("last_used_at"), now),
    ]


def _format_expiry(expires_at: float | None, now: float) -> str:
    if expires_at is None:
        return "never"
    left = expires_at - now
    return "expired" if left <= 0 else f"in {formatting.format_duration(left)}"


def _format_use(used_at: float | None, now: float) -> str:
    if used_at is None:
        return "-"
    return f"{formatting.format_duration(max(0.0, now - used_at))} ago"


def _fetch_keys(api: ApiClient) -> list[JsonObject]:
    keys: list[JsonObject] = api.get("/v1/keys")["data"]
    return keys
