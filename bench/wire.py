"""Record one HTTP exchange over a raw socket; the recording is parsed afterwards.

The load generator shares the machine with the server that it measures. During a measurement it only
records when which bytes arrive. HTTP, SSE and JSON are parsed when the measurement is over, see
answer.py.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

CONNECT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where a server listens, and the API key that it requires."""

    host: str
    port: int
    key: str = ""

    @classmethod
    def from_url(cls, url: str, key: str = "") -> ServerAddress:
        """Parse `http://host:port`. Raises ValueError for anything else."""
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"not an http:// address: {url}")
        return cls(parts.hostname, parts.port or 80, key)


@dataclass(slots=True)
class Recording:
    """The received bytes with times of `time.perf_counter()`; filled while the exchange runs."""

    sent_at: float = 0.0
    ended_at: float | None = None  # None: still running, or abandoned
    arrivals: list[tuple[float, bytes]] = field(default_factory=list)
    error: str | None = None  # of the connection; errors that the server reports are in `arrivals`
    progress: asyncio.Event | None = None  # if given, set at every arrival and at the end


def encode_request(address: ServerAddress, path: str, body: bytes) -> bytes:
    """Encode a POST that asks the server to close the connection after the answer."""
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
    address: ServerAddress, request: bytes, recording: Recording, *, timeout_seconds: float
) -> None:
    """Send the request and record until the server closes. Cancelling closes the connection."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    recording.sent_at = time.perf_counter()
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            transport, _ = await loop.create_connection(
                lambda: _Recorder(recording, ended), address.host, address.port
            )
    except OSError as error:
        recording.error = f"no connection: {error.strerror or type(error).__name__}"
        return
    try:
        transport.write(request)
        async with asyncio.timeout(timeout_seconds):
            await ended
    except TimeoutError:
        recording.error = f"no end within {timeout_seconds:g} s"
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
        if exc is not None and self._recording.error is None:
            self._recording.error = f"connection lost: {type(exc).__name__}"
        if self._recording.progress is not None:
            self._recording.progress.set()
        if not self._ended.done():
            self._ended.set_result(None)
