"""A minimal OpenAI-compatible server on a loopback socket that streams a scripted answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

Body = dict[str, Any]


@dataclass
class ServerScript:
    """The scripted behaviour of the server, and a record of the requests it received."""

    tokens: int = 5
    status: int = 200
    counts_usage: bool = True
    splits_bytes: bool = False  # sends every byte in its own packet
    disconnect_after: int | None = None  # number of tokens, then the connection is closed
    error_after: int | None = None  # number of tokens, then an error event is sent
    hold: asyncio.Event | None = None  # awaited after the first token
    barrier: asyncio.Barrier | None = None  # awaited after the first token, too
    request_bodies: list[Body] = field(default_factory=list)
    authorization_headers: list[str] = field(default_factory=list)
    running_requests: int = 0
    max_running_requests: int = 0


@asynccontextmanager
async def serve(script: ServerScript) -> AsyncIterator[int]:
    """Run the server and yield its port."""
    server = await asyncio.start_server(
        lambda reader, writer: _handle_connection(script, reader, writer), "127.0.0.1", 0
    )
    async with server:
        yield server.sockets[0].getsockname()[1]


async def _handle_connection(
    script: ServerScript, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
    body = json.loads(await reader.readexactly(int(headers["Content-Length"])))
    script.request_bodies.append(body)
    script.authorization_headers.append(headers.get("Authorization", ""))
    script.running_requests += 1
    script.max_running_requests = max(script.max_running_requests, script.running_requests)
    try:
        await _send_answer(
            script, body, "chat" in head.split(" ", 2)[1], _make_sender(script, writer)
        )
    except ConnectionError:
        pass
    finally:
        script.running_requests -= 1
        writer.close()


def _make_sender(script: ServerScript, writer: asyncio.StreamWriter) -> Callable[[bytes], Any]:
    async def send(data: bytes) -> None:
        for part in [data[i : i + 1] for i in range(len(data))] if script.splits_bytes else [data]:
            writer.write(part)
            await writer.drain()
            if script.splits_bytes:
                await asyncio.sleep(0)

    return send


async def _send_answer(
    script: ServerScript, body: Body, is_chat: bool, send: Callable[[bytes], Any]
) -> None:
    if script.status != 200:
        error = json.dumps({"error": {"message": "no"}}).encode()
        await send(b"HTTP/1.1 %d No\r\nContent-Length: %d\r\n\r\n" % (script.status, len(error)))
        await send(error)
        return
    await send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    if is_chat:
        await _send_event(send, {"choices": [{"delta": {"role": "assistant", "content": None}}]})
    for token in range(script.tokens):
        if token == script.disconnect_after:
            return
        if token == script.error_after:
            await _send_event(send, {"error": {"message": "it broke", "code": "runner_died"}})
            break
        text = f"w{token} "
        choice = {"delta": {"content": text}} if is_chat else {"text": text}
        await _send_event(send, {"choices": [{"index": 0, **choice}]})
        if token == 0 and script.hold is not None:
            await script.hold.wait()
        if token == 0 and script.barrier is not None:
            await script.barrier.wait()
    if script.counts_usage:
        details = {"cached_tokens": 3}
        usage = {"prompt_tokens": 7, "completion_tokens": 9, "prompt_tokens_details": details}
        await _send_event(send, {"choices": [], "usage": usage})
    await _send_chunk(send, b"data: [DONE]\n\n")
    await send(b"0\r\n\r\n")


async def _send_event(send: Callable[[bytes], Any], message: Body) -> None:
    await _send_chunk(send, b": a comment\n\ndata: " + json.dumps(message).encode() + b"\n\n")


async def _send_chunk(send: Callable[[bytes], Any], data: bytes) -> None:
    await send(b"%x\r\n%s\r\n" % (len(data), data))
