"""What an answer to a range request means. Pure; the numbers in `judge` are those of its cases."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from services.shared.errors import PullFailed, SourceUnavailable

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_TRY_AGAIN = frozenset({408, 425, 429})
_GONE = frozenset({401, 403, 404, 410})


class Meaning(Enum):
    """What the body is."""

    PART = "part"  # the bytes that were asked for
    WHOLE = "whole"  # the file from its start: this source knows no ranges
    CHANGED = "changed"  # of another file than the one we have the beginning of


class AccessExpired(Exception):
    """The origin no longer takes the credentials it gave."""


class LinkExpired(Exception):
    """A redirect's target no longer lets us in."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The request: bytes [start, end] of a file of that size, whose ETag was seen before."""

    start: int
    end: int
    size_bytes: int
    etag: str | None
    is_direct: bool = False  # sent to a redirect's target, not to the origin
    has_secret: bool = False  # sent with credentials


@dataclass(frozen=True, slots=True)
class Answered:
    """The part of the answer that matters here."""

    status: int
    content_range: str | None
    content_length: int | None
    etag: str | None


def request_headers(asked: Asked) -> dict[str, str]:
    """Range, and If-Range where the ETag is strong enough for it (RFC 9110, 13.1.5)."""
    headers = {"Range": f"bytes={asked.start}-{asked.end}"}
    if asked.etag and not asked.etag.startswith("W/"):
        headers["If-Range"] = asked.etag
    return headers


def judge(asked: Asked, answered: Answered) -> Meaning:
    """What the body is, or an error: SourceUnavailable is worth another try, PullFailed is not;
    LinkExpired and AccessExpired need a new address first.

    1  206 with our range          4  a refused link          6  anything else
    2  206 with another one        5  a busy source
    3  200
    """
    status = answered.status
    if status == 206:
        match = _CONTENT_RANGE.fullmatch(answered.content_range or "")
        if match is None or int(match[1]) != asked.start or int(match[2]) > asked.end:  # 2
            raise SourceUnavailable("the source sent other bytes than it was asked for")
        _check_size(asked, None if match[3] == "*" else int(match[3]))
        return Meaning.CHANGED if _differs(asked, answered) else Meaning.PART  # 1
    if status == 200:  # 3
        if _differs(asked, answered):
            return Meaning.CHANGED
        _check_size(asked, answered.content_length)
        return Meaning.WHOLE
    if status in _GONE and asked.is_direct:  # 4
        raise LinkExpired
    if status == 401 and asked.has_secret:
        raise AccessExpired
    if status in _TRY_AGAIN or status >= 500:  # 5
        raise SourceUnavailable(f"the source answered HTTP {status}")
    raise PullFailed(refusal(status))  # 6


def refusal(status: int) -> str:
    """A final answer in words."""
    words = {
        401: "the source wants credentials: the model is private or gated",
        403: "the source refuses access: the model is private or gated",
        404: "the source does not have this file",
        410: "the source no longer has this file",
        416: "the source's file is shorter than promised",
    }
    return words.get(status, f"the source answered HTTP {status}")


def _differs(asked: Asked, answered: Answered) -> bool:
    return asked.etag is not None and answered.etag is not None and asked.etag != answered.etag


def _check_size(asked: Asked, size_bytes: int | None) -> None:
    if size_bytes is not None and size_bytes != asked.size_bytes:
        raise PullFailed(
            f"the source's file has {size_bytes} bytes where {asked.size_bytes} were promised"
        )
