"""How a real worker stops: HTTP and gRPC together, and every answer with an end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import redis

from protos import spindll_pb2
from protos.spindll_pb2_grpc import SpindllStub
from services.shared.pulls.commands import JobCommands
from services.shared.pulls.job_store import JobStore, new_job
from tests.api.conftest import make_description, make_manifest, put_model, running_api
from tests.api.process.service import BODY, CHAT, Service, running_with_model, until
from tests.fakes.scripted_engine import ScriptedEngine, delta, finished

HELLO = spindll_pb2.ChatRequest(
    model="tiny", messages=[spindll_pb2.Message(role="user", content="hi")]
)


def connect(service: Service) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(
        f"127.0.0.1:{service.grpc_port}",
        options=[("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)],
    )


def metadata(service: Service) -> tuple[tuple[str, str], ...]:
    return tuple(service.headers.items())


async def read_lines(answer: httpx.Response) -> list[str]:
    return [line async for line in answer.aiter_lines() if line]


async def read_tokens(call: Any) -> tuple[str, grpc.StatusCode]:
    """The text of a call and its status."""
    text = ""
    try:
        async for token in call:
            text += token.token
    except grpc.aio.AioRpcError as error:
        return text, error.code()
    return text, grpc.StatusCode.OK


async def test_new_calls_are_refused_while_running_answers_of_both_protocols_finish(
    tmp_path: Path, redis_url: str, engine: ScriptedEngine
) -> None:
    gate = asyncio.Event()
    engine.scripts["*"] = [delta("Par"), gate, delta("is."), finished()]
    async with running_with_model(tmp_path, redis_url, engine, drain_seconds=60) as service:
        async with (
            httpx.AsyncClient(headers=service.headers, timeout=60) as client,
            client.stream("POST", service.url + CHAT, json={**BODY, "stream": True}) as answer,
            connect(service) as channel,
        ):
            tokens = aiter(SpindllStub(channel).Chat(HELLO, metadata=metadata(service), timeout=60))
            assert (await anext(tokens)).token == "Par"
            service.process.terminate()

            async def refuses_calls() -> bool:
                async with connect(service) as other:
                    listing = SpindllStub(other).List(
                        spindll_pb2.ListRequest(), metadata=metadata(service), timeout=60
                    )
                    return await listing.code() is grpc.StatusCode.UNAVAILABLE

            await until(refuses_calls)
            gate.set()
            lines, (text, status) = await asyncio.gather(read_lines(answer), read_tokens(tokens))

        assert lines[-1] == "data: [DONE]"
        assert "is." in "".join(lines)
        assert (text, status) == ("is.", grpc.StatusCode.OK)
        assert await asyncio.to_thread(service.process.wait, 30) == 0


async def test_requests_whose_prompts_are_being_rendered_end_with_an_error(
    tmp_path: Path, redis_url: str, engine: ScriptedEngine
) -> None:
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    model = make_manifest(description=make_description(chat_template=endless))
    put_model(tmp_path / "data" / "models", model)
    async with httpx.AsyncClient(timeout=60) as client:
        async with running_api(tmp_path, redis_url, engine, drain_seconds=0.1) as api:
            headers, parts = {"x-api-key": api.user_key}, api.app.state.parts
            asks = [
                asyncio.create_task(client.post(api.url + CHAT, json=BODY, headers=headers))
                for _ in range(4)  # two are rendered, two wait
            ]
            busy = parts.prompts._templates._busy
            while len(busy) < 2 or parts.generations._renders.pending < 4:
                await asyncio.sleep(0.01)
            for process in busy:
                os.kill(process.pid, signal.SIGSTOP)
        answers = await asyncio.gather(*asks)

    assert [a.status_code for a in answers] == 4 * [503]
    assert {a.json()["error"]["code"] for a in answers} == {"unavailable"}
    assert not engine.submits


async def test_answers_that_do_not_finish_in_time_end_with_an_error(
    tmp_path: Path, redis_url: str, engine: ScriptedEngine
) -> None:
    engine.scripts["*"] = [delta("Par"), asyncio.Event()]
    with redis.Redis.from_url(redis_url) as connected:
        job, _ = JobCommands(connected, JobStore(connected)).create(new_job("other:latest"))
    async with running_with_model(tmp_path, redis_url, engine, drain_seconds=1) as service:
        watch = f"{service.url}/v1/pulls/{job.id}/events"
        async with (
            httpx.AsyncClient(headers=service.headers, timeout=60) as client,
            client.stream("POST", service.url + CHAT, json={**BODY, "stream": True}) as answer,
            client.stream("GET", watch) as changes,
            connect(service) as channel,
        ):
            tokens = aiter(SpindllStub(channel).Chat(HELLO, metadata=metadata(service), timeout=60))
            assert (await anext(tokens)).token == "Par"
            service.process.terminate()
            lines, watched, (_, status) = await asyncio.gather(
                read_lines(answer), read_lines(changes), read_tokens(tokens)
            )

        error = json.loads(lines[-2].removeprefix("data: "))["error"]
        assert (error["code"], lines[-1]) == ("engine_unavailable", "data: [DONE]")
        assert error["message"] == "the service is stopping; try again"
        assert '"code":"unavailable"' in watched[-1]
        assert status is grpc.StatusCode.UNAVAILABLE
        assert await asyncio.to_thread(service.process.wait, 30) == 0
    assert "Exception in ASGI" not in service.log.read_text()
    assert "unexpected error" not in service.log.read_text()
