"""What api and puller agree on about searches: a question over Redis, one answer back.

Only the puller may ask the world, and a search must not wait behind downloads, so it is no job:

    api     PUBLISH searches question   -> how many pullers listen; none: no need to wait
    puller  SET search_claim:{id} NX    -> one of them takes it
            RPUSH search_answer:{id}    <- BLPOP by the api

A question nobody heard leaves nothing behind; an answer nobody fetched expires.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from services.shared.structs import resolved

SEARCH_SECONDS = 15.0  # what a puller may take; what is not known by then is left out
MAX_HITS = 50
MAX_TEXT = 200

Format = Literal["gguf", "mlx"]
Sort = Literal["downloads", "size", "name"]


@resolved
class SearchQuery(msgspec.Struct, frozen=True, kw_only=True):
    """One search."""

    id: str
    text: str
    limit: int
    format: Format | None = None  # None: what suits the puller's platform
    sort: Sort = "downloads"


class SearchHit(msgspec.Struct, frozen=True, kw_only=True):
    """A model that can be pulled."""

    name: str  # what to pull
    source: str
    format: Format
    quantization: str | None = None  # of the files a pull would choose
    quantizations: tuple[str, ...] = ()  # all there are
    size_bytes: int | None = None  # of the files a pull would choose; None: not known
    downloads: int | None = None  # of the last 30 days
    gated: bool = False
    private: bool = False


@resolved
class SearchAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What was found, and in `notes` what a reader should know about it."""

    hits: tuple[SearchHit, ...] = ()
    notes: tuple[str, ...] = ()
    failed: str | None = None  # a sentence, when nobody could be asked


def sorted_hits(hits: list[SearchHit], by: Sort) -> list[SearchHit]:
    """Most downloads first, smallest first, or by name; what is not known comes last."""
    if by == "size":
        return sorted(hits, key=lambda h: (h.size_bytes is None, h.size_bytes or 0, h.name))
    if by == "name":
        return sorted(hits, key=lambda h: h.name.lower())
    return sorted(hits, key=lambda h: (h.downloads is None, -(h.downloads or 0), h.name))
