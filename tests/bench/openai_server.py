"""A tiny OpenAI-compatible server on a loopback socket, that streams what it is told to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

Body = dict[str, Any]


@dataclass
class Script:
    """How it answers, and what it was asked."""

    tokens: int = 5
    status: int = 200
    counts_usage: bool = True
    splits_bytes: bool = False  # every byte in a packet of its own
    breaks_after: int | None = None  # tokens until it hangs up
    error_after: int | None = None  # tokens until it says that something went wrong
    hold: asyncio.Event | None = None  # wait for this after the first token
    meet: asyncio.Barrier | None = None  # and until so many are as far
    asked: list[Body] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    running: int = 0
    most_running: int = 0


@asynccontextmanager
async def serving(script: Script) -> AsyncIterator[int]:
    """The port it listens on."""
    server = await asyncio.start_server(
        lambda reader, writer: _serve(script, reader, writer), "127.0.0.1", 0
    )
    async with server:
        yield server.sockets[0].getsockname()[1]


async def _serve(
    script: Script, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
    body = json.loads(await reader.readexactly(int(headers["Content-Length"])))
    script.asked.append(body)
    script.keys.append(headers.get("Authorization", ""))
    script.running += 1
    script.most_running = max(script.most_running, script.running)
    try:
        await _answer(script, body, "chat" in head.split(" ", 2)[1], _sender(script, writer))
    except ConnectionError:
        pass
    finally:
        script.running -= 1
        writer.close()


def _sender(script: Script, writer: asyncio.StreamWriter) -> Callable[[bytes], Any]:
    async def send(data: bytes) -> None:
        for part in [data[i : i + 1] for i in range(len(data))] if script.splits_bytes else [data]:
            writer.write(part)
            await writer.drain()
            if script.splits_bytes:
                await asyncio.sleep(0)

    return send


async def _answer(script: Script, body: Body, is_chat: bool, send: Callable[[bytes], Any]) -> None:
    if script.status != 200:
        error = json.dumps({"error": {"message": "no"}}).encode()
        await send(b"HTTP/1.1 %d No\r\nContent-Length: %d\r\n\r\n" % (script.status, len(error)))
        await send(error)
        return
    await send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    if is_chat:
        await _event(send, {"choices": [{"delta": {"role": "assistant", "content": None}}]})
    for token in range(script.tokens):
        if token == script.breaks_after:
            return
        if token == script.error_after:
            await _event(send, {"error": {"message": "it broke", "code": "runner_died"}})
            break
        text = f"w{token} "
        choice = {"delta": {"content": text}} if is_chat else {"text": text}
        await _event(send, {"choices": [{"index": 0, **choice}]})
        if token == 0 and script.hold is not None:
            await script.hold.wait()
        if token == 0 and script.meet is not None:
            await script.meet.wait()
    if script.counts_usage:
        details = {"cached_tokens": 3}
        usage = {"prompt_tokens": 7, "completion_tokens": 9, "prompt_tokens_details": details}
        await _event(send, {"choices": [], "usage": usage})
    await _chunk(send, b"data: [DONE]\n\n")
    await send(b"0\r\n\r\n")


async def _event(send: Callable[[bytes], Any], message: Body) -> None:
    await _chunk(send, b": a comment\n\ndata: " + json.dumps(message).encode() + b"\n\n")


async def _chunk(send: Callable[[bytes], Any], data: bytes) -> None:
    await send(b"%x\r\n%s\r\n" % (len(data), data))
