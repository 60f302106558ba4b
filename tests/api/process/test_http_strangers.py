"""What hostile HTTP clients cost a real worker, and what becomes of clients that vanish."""

from __future__ import annotations

import asyncio
import ctypes
import json
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from services.shared.redis.redis_client import connect_async
from tests.api.access.test_keys import ALICE, count_reads, put_record
from tests.api.process.service import BODY, CHAT, Service, running_with_model
from tests.fakes.scripted_engine import ScriptedEngine, delta, finished, started

MAX_GROWTH_BYTES = 64 << 20
GET = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n"
SO_ATTACH_FILTER = 26  # linux/socket.h


@pytest.fixture
async def service(tmp_path: Path, redis_url: str, engine: ScriptedEngine) -> AsyncIterator[Service]:
    waits = {"client_timeout_seconds": 2, "receive_timeout_seconds": 2}
    async with running_with_model(
        tmp_path, redis_url, engine, api_workers=1, grpc_port=0, **waits
    ) as running_service:
        yield running_service


ATTACKS = [
    GET + b"X-A: " + b"a" * (16 << 20) + b"\r\n\r\n",
    GET + b"".join(b"a%d: b\r\n" % n for n in range(100_000)) + b"\r\n",
    (GET + b"\r\n") * 300_000,
    (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (16 << 20)
        + b"x" * (16 << 20)
    ),
]


async def attack(service: Service, data: bytes) -> None:
    """Send it all, and read what comes back until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)

    async def read() -> None:
        while await reader.read(65536):
            pass

    reading = asyncio.create_task(read())
    try:
        writer.write(data)
        await writer.drain()
        writer.write_eof()
        await reading
    except OSError:
        pass
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        writer.close()


async def test_hostile_requests_at_once_take_little_memory_and_block_nobody(
    service: Service,
) -> None:
    before = service.peak_bytes()
    async with httpx.AsyncClient(headers=service.headers, timeout=30) as client:
        attacks = asyncio.gather(*(attack(service, data) for data in ATTACKS * 5))
        statuses = [(await client.post(service.url + CHAT, json=BODY)).status_code for _ in "12345"]
        await asyncio.wait_for(attacks, 60)
        statuses.append((await client.post(service.url + CHAT, json=BODY)).status_code)

    assert statuses == [200] * 6
    assert service.peak_bytes() - before < MAX_GROWTH_BYTES


async def test_a_storm_of_wrong_keys_neither_asks_redis_for_each_nor_locks_anybody_out(
    service: Service, redis_url: str
) -> None:
    async with httpx.AsyncClient(base_url=service.url, timeout=30) as client:
        connection = connect_async(redis_url)
        await put_record(connection)
        before, started_at = await count_reads(connection), time.monotonic()

        async def guess(connection_number: int) -> set[int]:
            guesses = [f"sk-{connection_number}-{number}" for number in range(100)]
            return {
                (await client.get("/v1/models", headers={"x-api-key": key})).status_code
                for key in guesses
            }

        statuses = await asyncio.gather(*(guess(number) for number in range(20)))
        known = await client.get("/v1/models", headers={"x-api-key": ALICE})
        of_a_file = await client.get("/v1/models", headers=service.headers)
        reads = await count_reads(connection) - before
        seconds = time.monotonic() - started_at
        await connection.aclose()

    assert set().union(*statuses) == {401}
    assert (known.status_code, of_a_file.status_code) == (200, 200)
    assert reads <= seconds + 1
    reports = [line for line in service.log.read_text().splitlines() if "API key refused" in line]
    assert 10 <= len(reports) <= 10 + seconds / 10
    assert all('"client": "127.0.0.1"' in line for line in reports)


def vanish(connection: socket.socket) -> None:
    """Let the kernel drop every packet for this socket, as if its machine had lost the network."""
    drop_all = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF: return 0
    program = struct.pack("HL", 1, ctypes.addressof(drop_all))
    connection.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux filters the packets of a socket")
async def test_the_requests_of_clients_that_vanished_end(
    service: Service, engine: ScriptedEngine
) -> None:
    engine.scripts["*"] = [started(), delta("Par"), asyncio.Event()]
    with ExitStack() as clients:
        for stream in (False, True):
            body = json.dumps({**BODY, "stream": stream}).encode()
            head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
            head += f"X-Api-Key: {service.headers['x-api-key']}\r\n\r\n"
            client = clients.enter_context(socket.create_connection(("127.0.0.1", service.port)))
            client.sendall(head.encode() + body)
            await engine.wait_until(lambda: len(engine.submits) == 1 + stream)  # noqa: B023
            vanish(client)

        await engine.wait_until(lambda: len(engine.cancels) == 2)


@pytest.mark.parametrize("offer", [b"Upgrade: h2c", b"upgrade: websocket"])
async def test_the_body_of_a_client_that_offers_another_protocol_is_read(
    service: Service, engine: ScriptedEngine, offer: bytes
) -> None:
    """Java's client offers HTTP/2 in each request; its bodies got lost."""
    engine.scripts["*"] = [started(), delta("Paris."), finished()]
    body = json.dumps(BODY).encode()
    key = service.headers["x-api-key"].encode()
    head = (
        b"POST %s HTTP/1.1\r\nHost: x\r\nX-Api-Key: %s\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        b"%s\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"
        b"Content-Length: %d\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(head % (CHAT.encode(), key, offer, len(body)) + body)
    answer = await reader.readuntil(b"Paris.")
    writer.close()

    assert answer.startswith(b"HTTP/1.1 200"), answer
