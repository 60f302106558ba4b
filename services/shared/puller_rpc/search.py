"""Searches for models: the api sends a query over Redis and gets one answer from a puller.

Only the puller connects to the internet. A search must not wait behind downloads, so it is not a
pull job:

    api     PUBLISH searches query      -> the number of pullers that listen; 0: nothing to wait for
    puller  SET search_claim:{id} NX    -> one of the pullers gets the query
            RPUSH search_answer:{id}    <- BLPOP by the api

Checks for newer versions of models (updates.py) go the same way; their `type` tells them apart.
A query that no puller receives leaves no key. An answer that the api does not read expires.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from services.shared.structs import resolved

SEARCH_SECONDS = 15.0  # the time a puller has; it leaves out what it does not know by then
MAX_HITS = 50
MAX_TEXT = 200

Format = Literal["gguf", "mlx"]
Sort = Literal["downloads", "size", "name"]


@resolved
class SearchQuery(msgspec.Struct, frozen=True, kw_only=True, tag="search"):
    """One search."""

    id: str
    text: str
    limit: int
    format: Format | None = None  # None: what suits the puller's platform
    sort: Sort = "downloads"


class SearchHit(msgspec.Struct, frozen=True, kw_only=True):
    """A model that can be pulled."""

    name: str  # the name to pull
    source: str
    format: Format
    quantization: str | None = None  # of the files that a pull would choose
    quantizations: tuple[str, ...] = ()  # all that exist
    size_bytes: int | None = None  # of the files that a pull would choose; None: unknown
    downloads: int | None = None  # of the last 30 days
    gated: bool = False
    private: bool = False


@resolved
class SearchAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The hits of a search; `notes` are sentences for the reader, such as a source that failed."""

    hits: tuple[SearchHit, ...] = ()
    notes: tuple[str, ...] = ()
    failed: str | None = None  # a sentence, when no source could be searched


def sorted_hits(hits: list[SearchHit], by: Sort) -> list[SearchHit]:
    """Hits by most downloads, by smallest size or by name; an unknown value comes last."""
    if by == "size":
        return sorted(hits, key=lambda h: (h.size_bytes is None, h.size_bytes or 0, h.name))
    if by == "name":
        return sorted(hits, key=lambda h: h.name.lower())
    return sorted(hits, key=lambda h: (h.downloads is None, -(h.downloads or 0), h.name))
