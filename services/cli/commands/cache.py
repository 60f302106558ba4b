"""`cache`: the prompt cache of the server."""

from __future__ import annotations

from urllib.parse import quote, urlencode

from services.cli.api_client import ApiClient, JsonObject
from services.cli.connection import find_connection
from services.cli.formatting import format_duration, format_size
from services.cli.paths import StackPaths
from services.cli.tables import add_row, new_table, print_table

_DAY_SECONDS = 86_400


def show(paths: StackPaths) -> None:
    """Print one line per tier, and one per named prefix."""
    with ApiClient(find_connection(paths)) as api:
        tiers = api.get("/v1/cache")["tiers"]
        prefixes = api.get("/v1/prefixes")["data"]
    table = new_table("TIER", "USED", "OF", "ENTRIES", "STORED", "USES", "READ", "SAVED", "NOTE")
    for tier in tiers:
        add_row(table, format_row(tier))
    print_table(
        table, "no prompts are stored: the cache is off, or the engine cannot use its folder"
    )
    if prefixes:
        print()
        table = new_table("PREFIX", "TENANT", "MODEL", "TOKENS", "STORED", "USED", "NOTE")
        for prefix in prefixes:
            add_row(table, format_prefix(prefix))
        print_table(table, "")


def unpin(paths: StackPaths, name: str, tenant: str | None) -> None:
    """Forget a named prefix."""
    query = "" if tenant is None else f"?{urlencode({'tenant': tenant})}"
    with ApiClient(find_connection(paths)) as api:
        api.delete(f"/v1/prefixes/{quote(name, safe='')}{query}")
    print(f"{name} is not kept any more")


def clear(paths: StackPaths, *, tenant: str | None, model: str | None, days: float | None) -> None:
    """Delete what matches, and print how much that was."""
    query: dict[str, str] = {"all": "true"} if tenant is None else {"tenant": tenant}
    if model is not None:
        query["model"] = model
    if days is not None:
        query["older_than"] = str(days * _DAY_SECONDS)
    with ApiClient(find_connection(paths)) as api:
        deleted = api.delete(f"/v1/cache?{urlencode(query)}")
    print(f"deleted {deleted['entries']} entries, {format_size(deleted['bytes'])} freed")


def rotate(paths: StackPaths, tenant: str | None) -> None:
    """Encrypt with new keys from now on."""
    query = "" if tenant is None else f"?{urlencode({'tenant': tenant})}"
    with ApiClient(find_connection(paths)) as api:
        api.post(f"/v1/cache/rotate{query}", {})
    print("what is stored from now on has new keys")


def format_prefix(prefix: JsonObject) -> list[str]:
    """The cells of a named prefix's line."""
    return [
        *(str(prefix[name]) for name in ("name", "tenant", "model")),
        *(str(prefix[name]) for name in ("prompt_tokens", "stored_tokens")),
        format_size(prefix["bytes"]),
        "outdated: the model has changed" if prefix["is_outdated"] else "",
    ]


def format_row(tier: JsonObject) -> list[str]:
    """The cells of a tier's line. A user key is shown the bytes of its tenant alone."""
    notes = [f"{count} rejected ({reason})" for reason, count in tier.get("rejected", {}).items()]
    if tier.get("not_written"):
        notes.append(f"not written: {tier['not_written']}")
    return [
        str(tier["name"]),
        format_size(tier["bytes"]),
        format_size(tier["budget_bytes"]),
        *(str(tier.get(name, "-")) for name in ("entries", "stored", "hits")),
        format_size(tier["read_bytes"]) if "read_bytes" in tier else "-",
        format_duration(tier["saved_seconds"]) if "saved_seconds" in tier else "-",
        ", ".join(notes),
    ]
