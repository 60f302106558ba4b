"""What gRPC callers without a key, and calls beyond the limits, cost a real worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from protos import spindll_pb2
from protos.spindll_pb2_grpc import SpindllStub
from tests.api.process.service import Service, running_with_model
from tests.fakes.scripted_engine import ScriptedEngine, delta, finished

MAX_GROWTH_BYTES = 64 << 20
CALLS = 12


@pytest.fixture
async def service(tmp_path: Path, redis_url: str, engine: ScriptedEngine) -> AsyncIterator[Service]:
    options = {"api_workers": 1, "max_body_bytes": 32 << 20, "client_timeout_seconds": 2}
    async with running_with_model(tmp_path, redis_url, engine, **options) as started:
        yield started


def connect(service: Service) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(
        f"127.0.0.1:{service.grpc_port}",
        options=[
            ("grpc.max_send_message_length", -1),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_http_proxy", 0),
        ],
    )


def build_chat(content: str) -> spindll_pb2.ChatRequest:
    return spindll_pb2.ChatRequest(
        model="tiny", messages=[spindll_pb2.Message(role="user", content=content)]
    )


async def read_status(call: Any) -> grpc.StatusCode:
    """The status that a call ends with."""
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_large_messages_without_a_key_take_no_memory(service: Service) -> None:
    big = build_chat("x" * (20 << 20))
    before = service.peak_bytes()
    async with connect(service) as channel:
        stub = SpindllStub(channel)
        statuses = await asyncio.gather(
            *(read_status(stub.Chat(big, timeout=60)) for _ in range(CALLS))
        )

    assert set(statuses) == {grpc.StatusCode.UNAUTHENTICATED}
    assert service.peak_bytes() - before < MAX_GROWTH_BYTES


async def test_a_message_above_the_body_limit_is_refused(service: Service) -> None:
    big = build_chat("x" * (33 << 20))
    async with connect(service) as channel:
        call = SpindllStub(channel).Chat(big, metadata=tuple(service.headers.items()), timeout=60)
        status = await read_status(call)

    assert status is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "API key" not in (await call.details() or "")


MANY = {
    "messages": b"\x12\x00" * (4 << 20),
    "messages with a role": b"\x12\x06\x0a\x04user" * (1 << 20),
    "empty tools": b"\x82\x01\x00" * (2 << 20),
    "tools that are large once parsed": spindll_pb2.ChatRequest(
        tools=['{"name":"f","parameters":{"a":[' + "[]," * (2 << 20) + "[]]}}"]
    ).SerializeToString(),
    "stop strings": spindll_pb2.ChatRequest(
        params=spindll_pb2.GenerateParams(stop=[""] * (3 << 20))
    ).SerializeToString(),
    "short stop strings": spindll_pb2.ChatRequest(
        params=spindll_pb2.GenerateParams(stop=["x"] * (2 << 20))
    ).SerializeToString(),
    "calls": spindll_pb2.ChatRequest(
        messages=[
            spindll_pb2.Message(role="assistant", tool_calls=[spindll_pb2.ToolCall()] * (2 << 20))
        ]
    ).SerializeToString(),
}


@pytest.mark.parametrize("name", MANY)
async def test_a_message_with_very_many_entries_takes_little_memory(
    service: Service, name: str
) -> None:
    """Two bytes become a hundred: 8 MiB of empty messages took a gigabyte."""
    before = service.peak_bytes()
    async with connect(service) as channel:
        start_call: Any = channel.unary_stream("/spindll.Spindll/Chat")  # sends bytes as they are
        call = start_call(
            build_chat("hi").SerializeToString() + MANY[name],
            metadata=tuple(service.headers.items()),
            timeout=60,
        )
        status = await read_status(call)

    assert status is grpc.StatusCode.INVALID_ARGUMENT
    assert service.peak_bytes() - before < MAX_GROWTH_BYTES


async def test_calls_without_a_message_leave_those_of_another_key_alone(
    service: Service, engine: ScriptedEngine
) -> None:
    engine.scripts["*"] = [finished()]
    admin = (service.data_dir / "secrets" / "admin.key").read_text().strip()
    never = asyncio.Event()

    async def send_nothing() -> AsyncIterator[bytes]:
        await never.wait()
        yield b""

    async with connect(service) as channel:
        open_call: Any = channel.stream_stream("/spindll.Spindll/Chat")
        calls = [
            open_call(send_nothing(), metadata=tuple(service.headers.items())) for _ in range(20)
        ]
        status = await read_status(
            SpindllStub(channel).Chat(
                build_chat("hi"), metadata=(("x-api-key", admin),), timeout=60
            )
        )
        for call in calls:
            call.cancel()

    assert status is grpc.StatusCode.OK


async def test_metadata_above_the_limit_is_refused(service: Service) -> None:
    metadata = (*service.headers.items(), ("x-more", "x" * (64 << 10)))
    async with connect(service) as channel:
        status = await read_status(
            SpindllStub(channel).Chat(build_chat("hi"), metadata=metadata, timeout=60)
        )

    assert status is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_wrong_key_is_logged_with_the_callers_address(service: Service) -> None:
    metadata = (("authorization", "Bearer sk-wrong"), ("x-forwarded-for", "203.0.113.9"))
    async with connect(service) as channel:
        status = await read_status(
            SpindllStub(channel).Chat(build_chat("hi"), metadata=metadata, timeout=60)
        )

    assert status is grpc.StatusCode.UNAUTHENTICATED
    assert '"event": "API key refused", "client": "203.0.113.9"' in service.log.read_text()


async def test_the_call_of_a_client_that_vanished_is_cancelled(
    service: Service, engine: ScriptedEngine
) -> None:
    engine.scripts["*"] = [delta("Par"), asyncio.Event()]
    script = (
        "import grpc, sys, time\n"
        "from protos.spindll_pb2_grpc import SpindllStub\n"
        "from protos import spindll_pb2 as p\n"
        "channel = grpc.insecure_channel(sys.argv[1], options=[('grpc.enable_http_proxy', 0)])\n"
        "request = p.ChatRequest(model='tiny', messages=[p.Message(role='user', content='hi')])\n"
        "call = SpindllStub(channel).Chat(request, metadata=(('x-api-key', sys.argv[2]),))\n"
        "print(next(call).token, flush=True)\n"
        "time.sleep(600)\n"
    )
    client = await service.start_client(
        script, f"127.0.0.1:{service.grpc_port}", service.headers["x-api-key"]
    )
    assert client.stdout is not None
    assert await client.stdout.readline() == b"Par\n"

    service.freeze(client)  # its kernel acknowledges, but gRPC's pings get no answer
    try:
        await engine.wait_until(lambda: engine.cancels)
    finally:
        client.kill()
        await client.wait()
