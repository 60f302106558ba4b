"""Classify the response to a range request.

Pure. The numbers in `classify_response` are those of the cases in its docstring.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from services.shared.errors import PullFailed, SourceUnavailable

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")
_SIZE = re.compile(r"\d{1,19}")  # more digits than a file system can count
_RETRYABLE = frozenset({408, 425, 429})
_EXPIRED = frozenset({401, 403, 404, 410})


class BodyKind(Enum):
    """What the body of a response holds."""

    PART = "part"  # the requested range
    WHOLE = "whole"  # the file from its start: this source ignores ranges


class ContentChanged(Exception):
    """The source has another version of a file without a digest than the one on disk."""


class CredentialsExpired(Exception):
    """The origin no longer accepts the credentials that it issued."""


class LinkExpired(Exception):
    """The target of a redirect no longer grants access."""


@dataclass(frozen=True, slots=True)
class RangeRequest:
    """A request for bytes [start, end] of a file of a known size.

    `validator` names the version of the bytes before `start` (`find_validator`). It is None when
    the file has a digest: the digest decides, and the nodes of a content network may each have an
    ETag of their own for the same bytes.
    """

    start: int
    end: int
    size_bytes: int
    validator: str | None = None
    is_direct: bool = False  # sent to the target of a redirect, not to the origin
    has_secret: bool = False  # sent with credentials
    refusals: Mapping[int, str] = field(default_factory=dict)  # of the address


@dataclass(frozen=True, slots=True)
class RangeResponse:
    """The status and the headers that classify a response."""

    status: int
    content_range: str | None
    content_length: int | None
    content_type: str | None = None
    validator: str | None = None


def parse_size(text: str | None) -> int | None:
    """The number of bytes in a header; None when there is none."""
    return int(text) if text and _SIZE.fullmatch(text) else None


def parse_total_size(content_range: str | None) -> int | None:
    """The size of the whole file that a Content-Range names; None when it does not."""
    match = _CONTENT_RANGE.fullmatch(content_range or "")
    return None if match is None or match[3] == "*" else int(match[3])


def find_validator(etag: str | None, last_modified: str | None) -> str | None:
    """What If-Range may name: a strong ETag, else the date of the last change (RFC 9110, 13.1.5)."""
    return etag if etag and not etag.startswith("W/") else last_modified


def build_range_headers(request: RangeRequest) -> dict[str, str]:
    """Range, and If-Range for a version that was seen before."""
    headers = {"Range": f"bytes={request.start}-{request.end}"}
    if request.validator is not None:
        headers["If-Range"] = request.validator
    return headers


def classify_response(request: RangeRequest, response: RangeResponse) -> BodyKind:
    """Return what the body holds, or raise.

    SourceUnavailable is worth a retry; PullFailed is final. LinkExpired and CredentialsExpired
    need a new address first, ContentChanged an empty file.

    1  206 with the requested range     4  a redirect's target or the origin refuses access
    2  206 with another range           5  the source is busy
    3  200                              6  anything else
    """
    status = response.status
    if status == 206:
        match = _CONTENT_RANGE.fullmatch(response.content_range or "")
        if match is None or int(match[1]) != request.start or int(match[2]) > request.end:  # 2
            raise SourceUnavailable("the source sent another range than the requested one")
        _check_version(request, response)
        _check_size(request, parse_total_size(response.content_range))
        return BodyKind.PART  # 1
    if status == 200:  # 3
        _check_not_a_page(request, response)
        _check_version(request, response)
        _check_size(request, response.content_length)
        return BodyKind.WHOLE
    if status in _EXPIRED and request.is_direct:  # 4
        raise LinkExpired
    if status in request.refusals:
        raise PullFailed(request.refusals[status])
    if status == 401 and request.has_secret:
        raise CredentialsExpired
    if status in _RETRYABLE or status >= 500:  # 5
        raise SourceUnavailable(f"the source answered HTTP {status}")
    raise PullFailed(describe_refusal(status))  # 6


def is_page(content_type: str | None) -> bool:
    """Whether a body is a web page, as a network sends it that asks for a login first."""
    return (content_type or "").lower().startswith("text/html")


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


def _check_version(request: RangeRequest, response: RangeResponse) -> None:
    if request.validator is not None and request.validator != response.validator:
        raise ContentChanged


def _check_not_a_page(request: RangeRequest, response: RangeResponse) -> None:
    if is_page(response.content_type) and response.content_length != request.size_bytes:
        raise SourceUnavailable(
            "a web page came instead of the file; the network may ask for a login"
        )


def _check_size(request: RangeRequest, size_bytes: int | None) -> None:
    if size_bytes is not None and size_bytes != request.size_bytes:
        raise PullFailed(
            f"the source's file has {size_bytes} bytes where {request.size_bytes} were announced"
        )
