"""One HTTP exchange over a raw socket, recorded as it arrives and understood afterwards.

The load generator shares the machine with the server it measures. While a measurement runs it only
notes when which bytes came; HTTP, SSE and JSON are read when it is over (`answer.py`).
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

CONNECT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens, and the key it wants."""

    host: str
    port: int
    key: str = ""

    @classmethod
    def of(cls, url: str, key: str = "") -> Address:
        """From `http://host:port`. ValueError for anything else."""
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"not an http:// address: {url}")
        return cls(parts.hostname, parts.port or 80, key)


@dataclass(slots=True)
class Recording:
    """What came back, by `time.perf_counter()`; filled while the exchange runs."""

    sent_at: float = 0.0
    ended_at: float | None = None  # None: still running, or left early
    arrivals: list[tuple[float, bytes]] = field(default_factory=list)
    problem: str | None = None  # of the connection; a server's own errors are in its answer
    progress: asyncio.Event | None = None  # set at every arrival and at the end, where one is given


def request_bytes(address: Address, path: str, body: bytes) -> bytes:
    """A POST that asks the server to close afterwards, so that its end is the connection's."""
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: {address.host}:{address.port}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Connection: close",
    ]
    if address.key:
        lines.append(f"Authorization: Bearer {address.key}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def record(
    address: Address, request: bytes, recording: Recording, *, timeout_seconds: float
) -> None:
    """Send the request and record until the server closes. Cancelling it closes the connection."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    recording.sent_at = time.perf_counter()
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            transport, _ = await loop.create_connection(
                lambda: _Recorder(recording, ended), address.host, address.port
            )
    except OSError as error:
        recording.problem = f"no connection: {error.strerror or type(error).__name__}"
        return
    try:
        transport.write(request)
        async with asyncio.timeout(timeout_seconds):
            await ended
    except TimeoutError:
        recording.problem = f"no end within {timeout_seconds:g} s"
    finally:
        transport.abort()


class _Recorder(asyncio.Protocol):
    def __init__(self, recording: Recording, ended: asyncio.Future[None]) -> None:
        self._recording = recording
        self._ended = ended

    def data_received(self, data: bytes) -> None:
        self._recording.arrivals.append((time.perf_counter(), data))
        if self._recording.progress is not None:
            self._recording.progress.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._recording.ended_at = time.perf_counter()
        if exc is not None and self._recording.problem is None:
            self._recording.problem = f"connection lost: {type(exc).__name__}"
        if self._recording.progress is not None:
            self._recording.progress.set()
        if not self._ended.done():
            self._ended.set_result(None)
