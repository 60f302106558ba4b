"""Classify the response to a range request.

Pure. The numbers in `classify_response` are those of the cases in its docstring.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from services.shared.errors import PullFailed, SourceUnavailable

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_RETRYABLE = frozenset({408, 425, 429})
_EXPIRED = frozenset({401, 403, 404, 410})


class BodyKind(Enum):
    """What the body of a response holds."""

    PART = "part"  # the requested range
    WHOLE = "whole"  # the file from its start: this source ignores ranges
    CHANGED = "changed"  # bytes of another version than the one on disk


class CredentialsExpired(Exception):
    """The origin no longer accepts the credentials that it issued."""


class LinkExpired(Exception):
    """The target of a redirect no longer grants access."""


@dataclass(frozen=True, slots=True)
class RangeRequest:
    """A request for bytes [start, end] of a file of a known size; `etag` was seen before."""

    start: int
    end: int
    size_bytes: int
    etag: str | None
    is_direct: bool = False  # sent to the target of a redirect, not to the origin
    has_secret: bool = False  # sent with credentials


@dataclass(frozen=True, slots=True)
class RangeResponse:
    """The status and the headers that classify a response."""

    status: int
    content_range: str | None
    content_length: int | None
    etag: str | None


def build_range_headers(request: RangeRequest) -> dict[str, str]:
    """Range, and If-Range when the ETag is strong enough for it (RFC 9110, section 13.1.5)."""
    headers = {"Range": f"bytes={request.start}-{request.end}"}
    if request.etag and not request.etag.startswith("W/"):
        headers["If-Range"] = request.etag
    return headers


def classify_response(request: RangeRequest, response: RangeResponse) -> BodyKind:
    """Return what the body holds, or raise.

    SourceUnavailable is worth a retry; PullFailed is final. LinkExpired and CredentialsExpired
    need a new address first.

    1  206 with the requested range     4  a redirect's target or the origin refuses access
    2  206 with another range           5  the source is busy
    3  200                              6  anything else
    """
    status = response.status
    if status == 206:
        match = _CONTENT_RANGE.fullmatch(response.content_range or "")
        if match is None or int(match[1]) != request.start or int(match[2]) > request.end:  # 2
            raise SourceUnavailable("the source sent another range than the requested one")
        _check_size(request, None if match[3] == "*" else int(match[3]))
        return BodyKind.CHANGED if _is_changed(request, response) else BodyKind.PART  # 1
    if status == 200:  # 3
        if _is_changed(request, response):
            return BodyKind.CHANGED
        _check_size(request, response.content_length)
        return BodyKind.WHOLE
    if status in _EXPIRED and request.is_direct:  # 4
        raise LinkExpired
    if status == 401 and request.has_secret:
        raise CredentialsExpired
    if status in _RETRYABLE or status >= 500:  # 5
        raise SourceUnavailable(f"the source answered HTTP {status}")
    raise PullFailed(describe_refusal(status))  # 6


def describe_refusal(status: int) -> str:
    """The message for a final status."""
    messages = {
        401: "the source requires credentials: the model is private or gated",
        403: "the source refuses access: the model is private or gated",
        404: "the source does not have this file",
        410: "the source no longer has this file",
        416: "the source's file is shorter than announced",
    }
    return messages.get(status, f"the source answered HTTP {status}")


def _is_changed(request: RangeRequest, response: RangeResponse) -> bool:
    return request.etag is not None and response.etag is not None and request.etag != response.etag


def _check_size(request: RangeRequest, size_bytes: int | None) -> None:
    if size_bytes is not None and size_bytes != request.size_bytes:
        raise PullFailed(
            f"the source's file has {size_bytes} bytes where {request.size_bytes} were announced"
        )
