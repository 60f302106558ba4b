"""Probes: check whether a service is ready. Each sends one request, without a client library."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

TIMEOUT_SECONDS = 2.0
POLL_SECONDS = 0.05


class ReadinessProbe(Protocol):
    """A check whether a service is ready."""

    async def is_ready(self) -> bool:
        """Whether the service can serve requests now. Raises nothing and has a time limit."""


async def wait_until_ready(probe: ReadinessProbe) -> None:
    """Repeat a probe until the service is ready."""
    while True:
        if await probe.is_ready():
            return
        await asyncio.sleep(POLL_SECONDS)


@dataclass(frozen=True, slots=True)
class StaysAlive:
    """For a service without a port: it is ready once it has run for this many seconds."""

    seconds: float = 1.0

    async def is_ready(self) -> bool:
        """True after the time. The caller cancels the wait when the service ends before."""
        await asyncio.sleep(self.seconds)
        return True


@dataclass(frozen=True, slots=True)
class RedisPing:
    """Redis on a unix socket has loaded its file. The user needs no right but to ping."""

    socket: Path
    user: str
    password_file: Path

    async def is_ready(self) -> bool:
        """Whether Redis answers PONG; while it reads its file it answers LOADING."""
        try:
            password = self.password_file.read_text().strip()
        except OSError:
            return False
        request = f"AUTH {self.user} {password}\r\nPING\r\nQUIT\r\n".encode()
        answer = await _exchange(asyncio.open_unix_connection(str(self.socket)), request, None)
        return answer.startswith(b"+OK\r\n+PONG\r\n")


@dataclass(frozen=True, slots=True)
class AcceptsConnections:
    """A service listens on a unix socket."""

    socket: Path

    async def is_ready(self) -> bool:
        """Whether the socket accepts a connection."""
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                _, writer = await asyncio.open_unix_connection(str(self.socket))
        except (OSError, TimeoutError):
            return False
        writer.close()
        return True


@dataclass(frozen=True, slots=True)
class HttpOk:
    """An HTTP server answers a path with status 200."""

    host: str
    port: int
    path: str

    async def is_ready(self) -> bool:
        """Whether the status is 200."""
        return (await self.get())[0] == 200

    async def get(self) -> tuple[int, str]:
        """The status and the body; (0, "") when there is no response."""
        # HTTP/1.0: the server closes the connection after the response, which marks its end.
        request = f"GET {self.path} HTTP/1.0\r\nHost: {self.host}:{self.port}\r\n\r\n".encode()
        answer = await _exchange(asyncio.open_connection(self.host, self.port), request, None)
        head, _, body = answer.partition(b"\r\n\r\n")
        status = head.split(b" ", 2)[1:2]
        if not status or not status[0].isdigit():
            return 0, ""
        return int(status[0]), body.decode(errors="replace")


def describe_not_ready(body: str) -> str:
    """The reasons in the body of a /ready response that is not 200."""
    try:
        answer = json.loads(body)
    except ValueError:
        return "the api does not respond"
    missing = answer.get("missing") if isinstance(answer, dict) else None
    if isinstance(missing, list) and missing:
        return "; ".join(str(item) for item in missing)
    return "the api is not ready"


async def _exchange(
    connecting: Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]],
    request: bytes,
    until: bytes | None,
) -> bytes:
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            reader, writer = await connecting
            try:
                writer.write(request)
                return await (reader.readuntil(until) if until else reader.read())
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return b""
