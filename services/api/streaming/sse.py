"""Server-sent events as bytes; the only module that knows their syntax.

event: name        optional, before the data of an event
data: {…}          an event
: text             a comment, which keeps proxies and clients from closing an idle connection
data: {"error":…}  an error that happened after the status was sent
data: [DONE]       the end of a stream in OpenAI's dialect

A blank line ends each of them. Source:
https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

from collections.abc import AsyncIterable

import msgspec
from starlette.responses import StreamingResponse

from services.api.errors import build_error_body
from services.shared.errors import SpindllError

# For dialects that build the frame of every token from parts encoded once.
DATA = b"data: "
END = b"\n\n"

DONE = DATA + b"[DONE]" + END
_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


class EventStreamResponse(StreamingResponse):
    """An HTTP response that streams encoded events."""

    media_type = "text/event-stream"

    def __init__(self, frames: AsyncIterable[bytes]) -> None:
        super().__init__(frames, headers=_HEADERS)


def encode_event(data: bytes, *, event: str | None = None) -> bytes:
    """One event; `data` is JSON on one line."""
    name = b"" if event is None else b"event: %s\n" % event.encode()
    return name + DATA + data + END


def encode_comment(text: str) -> bytes:
    """A comment, which clients ignore."""
    return b": " + text.encode() + END


def encode_error(error: SpindllError, *, event: str | None = None) -> bytes:
    """An error as an event, with the body it would have as an HTTP response."""
    return encode_event(msgspec.json.encode(build_error_body(error)), event=event)
