"""The limits of one HTTP connection, over real sockets."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from services.api.process.http_limits import MAX_HEAD_BYTES, MAX_HEADERS, MAX_PIPELINED
from tests.api.conftest import Api, make_manifest, put_model, running_api
from tests.fakes.scripted_engine import ScriptedEngine, delta, finished

HOST = b"Host: x\r\n"
GET = b"GET /health HTTP/1.1\r\n" + HOST
WAIT_SECONDS = 20


@pytest.fixture
async def api(tmp_path: Path, redis_url: str, engine: ScriptedEngine) -> AsyncIterator[Api]:
    put_model(tmp_path / "data" / "models", make_manifest())
    async with running_api(tmp_path, redis_url, engine, receive_timeout_seconds=0.4) as running:
        yield running


class Connection:
    """A client's connection that sends bytes as they are."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, parts: Iterable[bytes]) -> None:
        """Send everything that the server takes."""
        try:
            for part in parts:
                self.writer.write(part)
                await self.writer.drain()
        except ConnectionError:
            pass

    async def read_rest(self) -> bytes:
        """Everything until the server closes the connection."""
        received = b""
        async with asyncio.timeout(WAIT_SECONDS):
            try:
                while part := await self.reader.read(65536):
                    received += part
            except ConnectionError:
                pass
        return received

    async def read_answer(self) -> tuple[int, dict[str, Any]]:
        """The status and the JSON body of one answer."""
        async with asyncio.timeout(WAIT_SECONDS):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.split("content-length: ")[1].split("\r\n")[0])
            body = await self.reader.readexactly(length)
        return int(head.split()[1]), json.loads(body)


@asynccontextmanager
async def connected(api: Api) -> AsyncIterator[Connection]:
    address = urlsplit(api.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()


def build_chat(api: Api, *, stream: bool = False, extra: int = 0) -> tuple[bytes, bytes]:
    """The head and the body of a chat request with a key."""
    message = {"role": "user", "content": "hi" + "x" * extra}
    body = json.dumps({"model": "tiny", "stream": stream, "messages": [message]}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\n" + HOST
    head += f"X-Api-Key: {api.user_key}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    return head, body


CHUNKED = b"POST /v1/completions HTTP/1.1\r\n" + HOST + b"X-Api-Key: KEY\r\n"
CHUNKED += b"Transfer-Encoding: chunked\r\n\r\n"
PART = b"a" * 16_384
TOO_LARGE = {
    "a long value": [GET, b"X-A: ", *[PART] * 5, b"\r\n\r\n"],
    "an endless value": [GET, b"X-A: ", *[PART] * 1024],
    "a long name": [GET, *[PART] * 5, b": x\r\n\r\n"],
    "a long path": [b"GET /", *[PART] * 5, b" HTTP/1.1\r\n\r\n"],
    "many headers": [GET, *[b"A: b\r\n"] * (MAX_HEADERS + 1), b"\r\n"],
    "endless headers": [GET, *[b"A: b\r\n" * 1000] * 100],
    "a long trailer": [CHUNKED, b"1\r\nx\r\n0\r\nX-A: ", *[PART] * 64],
    "many trailers": [CHUNKED, b"1\r\nx\r\n0\r\n", b"A: b\r\n" * 200, b"\r\n"],
    "an endless chunk extension": [CHUNKED, b"1;", *[PART] * 64],
}


@pytest.mark.parametrize("parts", TOO_LARGE.values(), ids=TOO_LARGE.keys())
async def test_a_head_above_the_limits_is_refused_and_the_connection_closed(
    api: Api, parts: list[bytes]
) -> None:
    async with connected(api) as connection:
        with_key = [part.replace(b"KEY", api.user_key.encode()) for part in parts]
        sending = asyncio.create_task(connection.send(with_key))
        answer = await connection.read_rest()
        await sending

    # A client that goes on sending may get a reset before it has read the answer.
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")


async def test_a_head_below_the_limits_is_accepted(api: Api) -> None:
    headers = [b"A%d: b\r\n" % number for number in range(MAX_HEADERS - 2)]
    large = b"X-A: " + b"a" * (MAX_HEAD_BYTES - 4096) + b"\r\n"
    async with connected(api) as connection:
        await connection.send([GET, *headers, large, b"\r\n"])

        assert (await connection.read_answer())[0] == 200


async def test_the_answer_to_a_large_head_names_the_problem(api: Api) -> None:
    async with connected(api) as connection:
        await connection.send([GET + b"A: b\r\n" * (MAX_HEADERS + 1) + b"\r\n"])
        status, body = await connection.read_answer()

    assert (status, body["error"]["code"]) == (431, "request_head_too_large")


async def test_what_is_not_http_is_400_and_reported_with_its_address(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(api) as connection:
        await connection.send([b"\x16\x03\x01 hello\r\n\r\n"])

        assert (await connection.read_answer())[0] == 400
        assert await connection.read_rest() == b""
    lines = [record.__dict__ for record in caplog.records if record.levelno == logging.WARNING]
    assert [(line["msg"], line["client"]) for line in lines] == [
        ("HTTP request refused", "127.0.0.1")
    ]


@pytest.mark.parametrize(
    "sent",
    [b"", b"\r\n", b"GET /hea", GET, GET + b"X-A: b"],
    ids=["nothing", "an empty line", "half a path", "half a head", "half a header"],
)
async def test_a_client_that_sends_no_whole_head_is_disconnected(api: Api, sent: bytes) -> None:
    async with connected(api) as connection:
        await connection.send([sent])
        answer = await connection.read_rest()

    assert answer == b"" or b'"code":"request_timeout"' in answer


async def test_a_head_that_arrives_byte_by_byte_is_not_waited_for_longer(api: Api) -> None:
    async with connected(api) as connection:

        async def drip() -> None:
            while True:
                await connection.send([b"X-A: b\r\n"])
                await asyncio.sleep(0.05)

        await connection.send([GET])
        dripping = asyncio.create_task(drip())
        await connection.read_rest()
        dripping.cancel()


async def test_empty_lines_between_requests_do_not_keep_a_connection(api: Api) -> None:
    async with connected(api) as connection:
        await connection.send([GET + b"\r\n"])
        assert (await connection.read_answer())[0] == 200
        await connection.send([b"\r\n"])

        assert await connection.read_rest() == b""


async def test_a_body_that_stops_is_408(api: Api) -> None:
    head, body = build_chat(api)
    async with connected(api) as connection:
        await connection.send([head + body[:-1]])
        status, answer = await connection.read_answer()

        assert (status, answer["error"]["code"]) == (408, "request_timeout")
        assert await connection.read_rest() == b""


async def test_a_slow_body_that_does_not_stop_is_accepted(api: Api) -> None:
    head, body = build_chat(api, extra=2000)
    async with connected(api) as connection:
        await connection.send([head])
        for start in range(0, len(body), 200):
            await connection.send([body[start : start + 200]])
            await asyncio.sleep(0.1)  # together longer than the limit

        assert (await connection.read_answer())[0] == 200


async def test_a_body_after_its_answer_is_not_read_for_ever(api: Api) -> None:
    head = b"POST /v1/models HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000000\r\n\r\n"
    async with connected(api) as connection:

        async def drip() -> None:
            while True:
                await connection.send([b"x"])
                await asyncio.sleep(0.05)

        await connection.send([head])
        dripping = asyncio.create_task(drip())
        answer = await connection.read_rest()
        dripping.cancel()

    assert answer.startswith(b"HTTP/1.1 401 ")


async def test_a_long_answer_has_no_time_limit(api: Api, engine: ScriptedEngine) -> None:
    gate = asyncio.Event()
    engine.scripts["*"] = [delta("Par"), gate, delta("is."), finished()]
    async with connected(api) as connection:
        await connection.send([b"".join(build_chat(api))])
        asyncio.get_running_loop().call_later(1.2, gate.set)  # three times the limit
        status, answer = await connection.read_answer()

    assert status == 200
    assert answer["choices"][0]["message"]["content"] == "Paris."


async def test_pipelined_requests_are_answered_in_order(api: Api) -> None:
    async with connected(api) as connection:
        await connection.send([(GET + b"\r\n") + b"GET /nowhere HTTP/1.1\r\n" + HOST + b"\r\n"])

        assert (await connection.read_answer())[0] == 200
        assert (await connection.read_answer())[0] == 401


async def test_a_flood_of_pipelined_requests_is_cut_off(api: Api) -> None:
    flood = (GET + b"\r\n") * 10 * MAX_PIPELINED
    async with connected(api) as connection:
        await connection.send([flood])
        answers = await connection.read_rest()

    assert answers.count(b"HTTP/1.1 200") < MAX_PIPELINED


async def test_a_client_that_leaves_with_requests_in_the_pipeline_is_noticed(
    api: Api, engine: ScriptedEngine
) -> None:
    engine.scripts["*"] = [delta("Par"), asyncio.Event()]
    head, body = build_chat(api)
    async with connected(api) as connection:
        await connection.send([head + body])
        await engine.wait_until(lambda: engine.submits)
        await connection.send([GET])  # half a second request, so that reading goes on

    await engine.wait_until(lambda: engine.cancels)
