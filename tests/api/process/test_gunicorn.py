"""The service as it runs in production: gunicorn, several workers, signals."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import httpx
import pytest

from protos import spindll_pb2
from protos.spindll_pb2_grpc import SpindllStub
from tests.api.conftest import PARIS
from tests.api.process.service import BODY, CHAT, Service, running, running_with_model, until
from tests.fakes.scripted_engine import ScriptedEngine, delta, finished


@pytest.fixture
async def service(tmp_path: Path, redis_url: str, engine: ScriptedEngine) -> AsyncIterator[Service]:
    async with running_with_model(tmp_path, redis_url, engine) as started:
        yield started


async def test_two_workers_serve_http_and_grpc_and_log_json(service: Service) -> None:
    assert len(service.workers()) == 2
    for _ in range(8):  # a connection each: the kernel spreads them over the workers
        async with httpx.AsyncClient(headers=service.headers) as client:
            answer = await client.post(service.url + CHAT, json=BODY)
        assert answer.json()["choices"][0]["message"]["content"] == "Paris."
        assert "server" not in answer.headers
        async with grpc.aio.insecure_channel(
            f"127.0.0.1:{service.grpc_port}", options=[("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            call = SpindllStub(channel).Chat(
                spindll_pb2.ChatRequest(
                    model="tiny", messages=[spindll_pb2.Message(role="user", content="hi")]
                ),
                metadata=tuple(service.headers.items()),
                timeout=20,
            )
            assert "".join([token.token async for token in call]) == "Paris."

    lines = service.log.read_text().splitlines()
    assert all(line.startswith("{") for line in lines), lines
    assert not any(service.headers["x-api-key"] in line for line in lines)
    assert not any("control" in line.lower() for line in lines)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports shared pages")
async def test_workers_share_the_memory_of_what_was_imported_before_the_fork(
    service: Service,
) -> None:
    async with httpx.AsyncClient(headers=service.headers) as client:
        for _ in range(300):  # enough for full collections, which write to all objects they visit
            assert (await client.post(service.url + CHAT, json=BODY)).status_code == 200

    for worker in service.workers():
        memory = worker.memory_full_info()
        assert memory.uss < 0.4 * memory.rss


async def test_curl_streams(service: Service) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    process = await asyncio.create_subprocess_exec(
        curl,
        "-sN",
        service.url + CHAT,
        "-H",
        f"Authorization: Bearer {service.headers['x-api-key']}",
        "-d",
        '{"model":"tiny","stream":true,"messages":[{"role":"user","content":"hi"}]}',
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()

    assert process.returncode == 0
    assert b'"content":"Par' in output
    assert output.endswith(b"data: [DONE]\n\n")


async def test_a_killed_worker_is_replaced(service: Service) -> None:
    before = {worker.pid for worker in service.workers()}
    os.kill(min(before), signal.SIGKILL)

    async def replaced() -> bool:
        now = {worker.pid for worker in service.workers()}
        return len(now) == 2 and min(before) not in now

    await until(replaced)
    await service.wait_ready()
    async with httpx.AsyncClient(headers=service.headers) as client:
        assert (await client.post(service.url + CHAT, json=BODY)).status_code == 200


async def test_sigterm_lets_running_answers_finish(
    service: Service, engine: ScriptedEngine
) -> None:
    gate = asyncio.Event()
    engine.scripts["*"] = [delta("Par"), gate, delta("is."), finished()]
    async with (
        httpx.AsyncClient(headers=service.headers, timeout=30) as client,
        client.stream("POST", service.url + CHAT, json={**BODY, "stream": True}) as answer,
    ):
        stream = answer.aiter_lines()
        lines = [await anext(stream)]
        service.process.terminate()

        async def refuses() -> bool:
            try:
                async with httpx.AsyncClient() as other:
                    await other.get(f"{service.url}/health")
            except httpx.TransportError:
                return True
            return False

        await until(refuses)
        gate.set()
        lines += [line async for line in stream]

    assert "is." in "".join(lines)
    assert lines[-2] == "data: [DONE]"
    await asyncio.to_thread(service.process.wait, 20)
    assert service.process.returncode == 0


async def test_an_engine_that_was_restarted_is_used_again(
    service: Service, engine: ScriptedEngine
) -> None:
    address = engine.address
    await engine.stop()
    async with httpx.AsyncClient(headers=service.headers, timeout=30) as client:
        gone = await client.post(service.url + CHAT, json=BODY)
        not_ready = await client.get(f"{service.url}/ready")
        again = ScriptedEngine({"*": PARIS})
        await again.start(address)
        await service.wait_ready()
        back = await client.post(service.url + CHAT, json=BODY)
        await again.stop()

    assert (gone.status_code, not_ready.status_code, back.status_code) == (503, 503, 200)
    assert not_ready.json()["missing"] == ["the engine does not answer"]


def test_an_invalid_setting_is_named_and_stops_the_start(tmp_path: Path) -> None:
    with running(tmp_path, api_port="many") as service:
        assert service.process.wait(30) != 0

        assert service.log.read_text().startswith("SPINDLL_API_PORT: ")


def test_a_taken_grpc_port_is_named_and_stops_the_start(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with running(tmp_path, grpc_port=port) as service:
            assert service.process.wait(30) == 1

    assert f'"event": "the gRPC port is taken", "port": {port}' in service.log.read_text()
