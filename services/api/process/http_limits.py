"""What one HTTP connection may cost: uvicorn's protocol with limits on size and time.

    connected ── head due ──► head complete ── next bytes due ──► body complete ── no limit ──►
        ▲                                                                       response complete
        └──────────────── keep-alive, uvicorn's own timer ◄──────────────────────────┘

uvicorn limits neither the bytes nor the number of headers, and waits for ever for a head or a body.
All this happens before the application sees a request, so nothing there can help.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
import sys
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from services.api.access.refusal_log import RefusalLog

MAX_HEAD_BYTES = 64 << 10  # the request line and all headers; the trailers of a body count too
MAX_HEADERS = 128
MAX_PIPELINED = 16  # requests on one connection that wait for the answer to an earlier one


# uvicorn warns of every malformed request, without an address; `refusals` does it with a limit.
_errors_only = logging.getLogger("uvicorn.error.protocol")
_errors_only.setLevel(logging.ERROR)


@dataclass(frozen=True, slots=True)
class HttpTimeouts:
    """The time limits of a connection, in seconds."""

    receive_seconds: float  # for a whole head, and for a pause within a body
    client_seconds: float  # until a client that cannot be reached counts as gone


_HEAD_END = b"\r\n\r\n"
_UPGRADE = re.compile(rb"(?<=\r\n)upgrade(?=:)", re.IGNORECASE)


class _TooMuch(Exception):
    """Raised in a callback of the parser, which then stops."""


class LimitedHttpProtocol(HttpToolsProtocol):
    """One connection. `build_http_protocol` sets the time limits."""

    timeouts: ClassVar[HttpTimeouts]
    refusals: ClassVar[RefusalLog]

    _due_at: float | None = None  # when the bytes that the client owes are due; None: it owes none
    _timer: asyncio.TimerHandle | None = None
    _running: RequestResponseCycle | None = None  # the oldest request without an answer
    _receives_body = False
    _unparsed_bytes = 0  # received since the parser last completed a head or a part of a body
    _head_bytes = 0
    _head_count = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = _errors_only

    # ---- events of the transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time limit of the first head."""
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family != socket.AF_UNIX:
            with contextlib.suppress(OSError):  # the client has left already
                set_tcp_timeouts(connection, self.timeouts.client_seconds)
        self._expect_bytes()

    def data_received(self, data: bytes) -> None:
        """Parse, and close the connection when the client sent too much."""
        self._unparsed_bytes += len(data)
        super().data_received(data if self._receives_body else _hide_upgrade(data))
        if self._unparsed_bytes > MAX_HEAD_BYTES:
            self._refuse(431)
        elif self._due_at is None and self._is_idle():
            self._expect_bytes()  # it sent empty lines, which are not a request yet

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the running request too, when others are queued behind it."""
        self._due_at = None
        if self._timer is not None:
            self._timer.cancel()
        running, self._running = self._running, None
        if running is not None and not running.response_complete:
            running.disconnected = True
            running.message_event.set()
        super().connection_lost(exc)

    # ---- callbacks of the parser

    def on_message_begin(self) -> None:
        """Start the limits of a head."""
        super().on_message_begin()
        self._head_bytes = self._head_count = 0
        self._receives_body = False
        if self._due_at is None:
            self._expect_bytes()

    def on_url(self, url: bytes) -> None:
        """Count a part of the request line."""
        self._count_head_bytes(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header or a trailer."""
        self._head_count += 1
        if self._head_count > MAX_HEADERS:
            raise _TooMuch
        self._count_head_bytes(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the time limit of the body."""
        self._unparsed_bytes = 0
        self._receives_body = True
        super().on_headers_complete()
        if len(self.pipeline) > MAX_PIPELINED:
            raise _TooMuch
        self._expect_bytes()

    def on_body(self, body: bytes) -> None:
        """Restart the time limit, unless the answer is complete and the rest is discarded."""
        self._unparsed_bytes = 0
        if not self.cycle.response_complete:
            self._expect_bytes()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The client owes nothing more."""
        self._unparsed_bytes = 0
        self._receives_body = False
        self._due_at = None
        self._head_bytes = 0
        super().on_message_complete()

    # ---- events of the application

    def on_response_complete(self) -> None:
        """Limit how long the rest of an unread body is discarded."""
        if self._receives_body:
            self._expect_bytes()
        self._running = None
        super().on_response_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser refused; called by `data_received` of the parent class."""
        self._refuse(431 if self._exceeds_head() else 400)

    # ---- limits

    def _count_head_bytes(self, count: int) -> None:
        self._head_bytes += count
        if self._head_bytes > MAX_HEAD_BYTES:
            raise _TooMuch

    def _exceeds_head(self) -> bool:
        return self._head_count > MAX_HEADERS or self._head_bytes > MAX_HEAD_BYTES

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _expect_bytes(self) -> None:
        """The client owes bytes from now on. One timer per connection looks at the time."""
        self._due_at = self.loop.time() + self.timeouts.receive_seconds
        if self._timer is None:
            self._timer = self.loop.call_at(self._due_at, self._check_due)

    def _check_due(self) -> None:
        self._timer = None
        if self._due_at is None:
            return
        if self.loop.time() < self._due_at:
            self._timer = self.loop.call_at(self._due_at, self._check_due)
        elif self.flow.read_paused or not (self._receives_body or self._is_idle()):
            # It owes nothing while we do not read, or while it waits for an answer.
            self._expect_bytes()
        elif self._head_bytes or self._receives_body:
            self._refuse(408)
        else:
            self.transport.close()

    def _refuse(self, status: int) -> None:
        """Answer with an error, unless an answer has begun, and close the connection."""
        if self.transport.is_closing():
            return
        self.refusals.report(self.client[0] if self.client else "")
        has_answer = self.cycle.response_started if self._receives_body else not self._is_idle()
        if not has_answer and not self.pipeline:
            self.transport.write(_build_refusal(status))
        self.transport.close()


def build_http_protocol(timeouts: HttpTimeouts) -> type[LimitedHttpProtocol]:
    """The class that uvicorn is to create for each connection."""
    limits = {"timeouts": timeouts, "refusals": RefusalLog("HTTP request refused")}
    return type("BoundHttpProtocol", (LimitedHttpProtocol,), limits)


def set_tcp_timeouts(connection: socket.socket, seconds: float) -> None:
    """Let the kernel close a connection whose peer has not acknowledged anything for this long.

    It probes an idle peer, so that a client that vanished is noticed without a write.
    """
    interval = max(1, int(seconds / 6))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
    if sys.platform == "darwin":
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPALIVE, 2 * interval)
    else:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 2 * interval)
        # For unacknowledged writes, which would otherwise be repeated for a quarter of an hour.
        milliseconds = int(seconds * 1000)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


def _hide_upgrade(data: bytes) -> bytes:
    """What begins with a head, with the header `Upgrade` under a name that nobody knows.

    Java's client offers HTTP/2 in each request, and a server may ignore that. httptools drops the
    body of a request that has the header, so that every request of such a client would be empty.
    """
    head, end, rest = data.partition(_HEAD_END)
    return _UPGRADE.sub(b"x-grade", head) + end + rest


_MESSAGES = {
    400: ("invalid_http", "this is not a valid HTTP request"),
    408: ("request_timeout", "the request did not arrive in time"),
    431: ("request_head_too_large", "the headers of the request are too large"),
}


def _build_refusal(status: int) -> bytes:
    code, message = _MESSAGES[status]
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    body = msgspec.json.encode({"error": error})
    head = (
        STATUS_LINE[status],
        b"content-type: application/json\r\n",
        b"content-length: %d\r\n" % len(body),
        b"connection: close\r\n\r\n",
    )
    return b"".join((*head, body))
