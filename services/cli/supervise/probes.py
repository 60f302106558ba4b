"""Ask a service whether it is ready. One question each, no library."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

TIMEOUT_SECONDS = 2.0
AGAIN_SECONDS = 0.05


class ReadinessProbe(Protocol):
    """A question with a yes or no."""

    async def is_ready(self) -> bool:
        """Whether the service would serve now. Never raises, never hangs."""


async def wait_until_ready(probe: ReadinessProbe) -> None:
    """Ask again and again until the answer is yes."""
    while True:
        if await probe.is_ready():
            return
        await asyncio.sleep(AGAIN_SECONDS)


@dataclass(frozen=True, slots=True)
class StaysAlive:
    """For a service that listens nowhere: one that cannot start has ended by then."""

    seconds: float = 1.0

    async def is_ready(self) -> bool:
        """Whoever waits is cancelled when the service ends, so surviving the wait is the answer."""
        await asyncio.sleep(self.seconds)
        return True


@dataclass(frozen=True, slots=True)
class RedisPing:
    """Redis on a unix socket, past loading its file."""

    socket: Path

    async def is_ready(self) -> bool:
        """It says PONG; while it reads its file it says LOADING."""
        answer = await _ask(asyncio.open_unix_connection(str(self.socket)), b"PING\r\n", b"\n")
        return answer.startswith(b"+PONG")


@dataclass(frozen=True, slots=True)
class AcceptsConnections:
    """Somebody listens on a unix socket."""

    socket: Path

    async def is_ready(self) -> bool:
        """A connection is accepted."""
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                _, writer = await asyncio.open_unix_connection(str(self.socket))
        except (OSError, TimeoutError):
            return False
        writer.close()
        return True


@dataclass(frozen=True, slots=True)
class HttpOk:
    """An HTTP server answers 200."""

    host: str
    port: int
    path: str

    async def is_ready(self) -> bool:
        """The status is 200."""
        return (await self.ask())[0] == 200

    async def ask(self) -> tuple[int, str]:
        """The status and the body; (0, "") when nobody answers."""
        # HTTP/1.0: the server closes after the answer, so the end of file is the end of it.
        request = f"GET {self.path} HTTP/1.0\r\nHost: {self.host}:{self.port}\r\n\r\n".encode()
        answer = await _ask(asyncio.open_connection(self.host, self.port), request, None)
        head, _, body = answer.partition(b"\r\n\r\n")
        status = head.split(b" ", 2)[1:2]
        if not status or not status[0].isdigit():
            return 0, ""
        return int(status[0]), body.decode(errors="replace")


def describe_not_ready(body: str) -> str:
    """The reason in an answer of /ready, in its own words."""
    try:
        answer = json.loads(body)
    except ValueError:
        return "the api does not answer"
    missing = answer.get("missing") if isinstance(answer, dict) else None
    if isinstance(missing, list) and missing:
        return "; ".join(str(item) for item in missing)
    return "the api is not ready"


async def _ask(
    connecting: Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]],
    question: bytes,
    until: bytes | None,
) -> bytes:
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            reader, writer = await connecting
            try:
                writer.write(question)
                return await (reader.readuntil(until) if until else reader.read())
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return b""
