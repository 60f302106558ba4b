"""`search`: find models to pull, and show whether they would fit this computer."""

from __future__ import annotations

import sys
from urllib.parse import urlencode

from services.cli import formatting
from services.cli.api_client import ApiClient, JsonObject
from services.cli.connection import find_connection
from services.cli.paths import StackPaths
from services.cli.tables import add_row, new_table, print_table

_FITS = {"yes": "yes", "no": "no"}


def search(paths: StackPaths, query: str, *, limit: int, format: str | None, sort: str) -> None:  # noqa: A002
    """Print one line per hit, then the notes. Raises CommandError when the search fails."""
    with ApiClient(find_connection(paths)) as api:
        answer = api.get(search_path(query, limit=limit, format=format, sort=sort))
    table = new_table("PULL", "SOURCE", "FORMAT", "SIZE", "FITS", "DOWNLOADS", "QUANTISATIONS")
    for hit in answer["data"]:
        add_row(table, format_row(hit))
    print_table(table, f"nothing found for {query!r}")
    for note in collect_notes(answer):
        print(formatting.printable(note), file=sys.stderr)


def search_path(query: str, *, limit: int, format: str | None, sort: str) -> str:  # noqa: A002
    """The API path of a search."""
    fields = {"q": query, "limit": limit, "sort": sort, **({"format": format} if format else {})}
    return f"/v1/search?{urlencode(fields)}"


def format_row(hit: JsonObject) -> list[str]:
    """The cells of a hit; an unknown value is a question mark or a dash."""
    size, downloads = hit.get("size_bytes"), hit.get("downloads")
    gated = " (gated)" if hit.get("gated") else ""
    return [
        f"{hit['name']}{gated}",
        str(hit.get("source") or "-"),
        str(hit.get("format") or "-"),
        "-" if size is None else formatting.format_size(size),
        _FITS.get(str(hit.get("fits")), "?"),
        "-" if downloads is None else f"{downloads:,}",
        " ".join(hit.get("quantizations") or ()) or str(hit.get("quantization") or "-"),
    ]


def collect_notes(answer: JsonObject) -> list[str]:
    """The lines below the table."""
    notes = [f"note: {note}" for note in answer.get("notes") or ()]
    if any(hit.get("gated") for hit in answer["data"]):
        notes.append("note: gated models need a Hugging Face token that may read them")
    if (room := answer.get("room_bytes")) is not None:
        notes.append(f"models may use {formatting.format_size(room)} of this computer's memory")
    return notes
