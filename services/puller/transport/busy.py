"""Sources that are busy or out of order: which answers say so, and how long they ask to wait."""

from __future__ import annotations

import re
from collections.abc import Callable

from services.shared.errors import SourceUnavailable

MAX_WAIT_SECONDS = 300.0
# draft-ietf-httpapi-ratelimit-headers, as the hub sends it: remaining requests, seconds to reset.
_RATE_LIMIT = re.compile(r"r\s*=\s*0\s*;\s*t\s*=\s*(\d+)")
_Header = Callable[[str], str | None]  # returns a header of the response


def is_busy(status: int) -> bool:
    """Whether the same request may get another answer later."""
    return status == 429 or status >= 500


def find_busy_error(source: str, status: int, header: _Header) -> SourceUnavailable | None:
    """The error for the answer of a busy source, with the time to wait; None for other answers."""
    if not is_busy(status):
        return None
    wait = find_wait_seconds(header, max_seconds=MAX_WAIT_SECONDS)
    return SourceUnavailable(f"{source} answered HTTP {status}", retry_after_seconds=wait)


def find_wait_seconds(header: _Header, *, max_seconds: float) -> float | None:
    """How long a busy source asks to wait, up to the maximum; None when it does not say.

    Retry-After counts first, and a date in it as the maximum. The hub names the end of its quota's
    window in `RateLimit: "api";r=0;t=287` instead.
    """
    text = header("retry-after")
    if text is not None:
        return min(float(text), max_seconds) if text.strip().isdecimal() else max_seconds
    limit = _RATE_LIMIT.search(header("ratelimit") or "")
    return min(float(limit[1]), max_seconds) if limit else None
