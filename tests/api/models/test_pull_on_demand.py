"""A request for a model that is not here: what it hears while a download runs, and who may start one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import openai
import pytest
import redis
from pydantic import ValidationError

from protos import spindll_pb2
from protos.spindll_pb2_grpc import SpindllStub
from services.api.settings import ApiSettings
from services.shared.pulls.job import JobState, PullJob
from services.shared.pulls.job_queue import JobQueue
from services.shared.pulls.job_store import JobStore
from tests.api.conftest import Api, make_manifest, put_model, running_api
from tests.fakes.scripted_engine import ScriptedEngine
from tests.waiting import free_port

HELLO = [{"role": "user", "content": "hi"}]
QWEN = "qwen3:0.6b"


class Box:
    """A worker with a policy, and the jobs it made."""

    def __init__(self, api: Api, client: redis.Redis, grpc_port: int) -> None:
        self.api = api
        self.board = JobStore(client)
        self.queue = JobQueue(client).queue
        self.grpc_port = grpc_port

    async def chat(self, model: str = QWEN, *, admin: bool = False) -> httpx.Response:
        async with self.api.client(self.api.admin_key if admin else None) as client:
            return await client.post(
                "/v1/chat/completions", json={"model": model, "messages": HELLO}
            )

    def jobs(self) -> list[str]:
        return [job.model for job in self.board.find()]

    def running(self, **progress: Any) -> PullJob:
        """The newest job, with a worker and so much done."""
        job = self.board.find()[0]
        assert self.board.claim(job.id, job.ticket, "worker") is not None
        self.board.report(job.id, "worker", progress)
        return self.board.get(job.id)


@pytest.fixture
async def make_box(tmp_path: Path, redis_url: str, engine: ScriptedEngine) -> AsyncIterator[Any]:
    put_model(tmp_path / "data" / "models", make_manifest())
    opened: list[AbstractAsyncContextManager[Api]] = []
    with redis.Redis.from_url(redis_url) as client:

        async def make(**settings: Any) -> Box:
            port = free_port()
            context = running_api(
                tmp_path, redis_url, engine, grpc_port=port, drain_seconds=0.1, **settings
            )
            opened.append(context)
            return Box(await context.__aenter__(), client, port)

        yield make
        for context in opened:
            await context.__aexit__(None, None, None)


async def test_by_default_nobody_starts_a_download_by_asking(make_box: Any) -> None:
    box = await make_box()

    assert [(await box.chat(admin=who)).status_code for who in (False, True)] == [404, 404]
    assert box.jobs() == []


async def test_an_admin_s_chat_starts_the_download_and_hears_of_it(make_box: Any) -> None:
    box = await make_box(pull_on_demand="true")
    answer = await box.chat("QWEN3:0.6b", admin=True)

    [job] = box.board.find()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
    assert answer.json()["error"]["code"] == "model_loading"
    assert answer.json()["error"]["loading"] == {
        "job": job.id,
        "state": "queued",
        "downloaded_bytes": 0,
        "total_bytes": None,
        "progress": None,
        "eta_seconds": None,
    }
    assert box.queue.job_ids == [f"{job.id}-1"]


async def test_the_next_chats_share_the_job_and_hear_its_progress(make_box: Any) -> None:
    box = await make_box(pull_on_demand="admin")
    await box.chat(admin=True)
    job = box.running(downloaded_bytes=25, total_bytes=100, bytes_per_second=5.0)
    answers = [await box.chat(), await box.chat(admin=True)]

    assert box.jobs() == [job.model]
    for answer in answers:
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "15")
        assert answer.json()["error"]["loading"] == {
            "job": job.id,
            "state": "running",
            "downloaded_bytes": 25,
            "total_bytes": 100,
            "progress": 0.25,
            "eta_seconds": 15.0,
        }


async def test_a_user_starts_nothing_where_admins_may(make_box: Any) -> None:
    box = await make_box(pull_on_demand="admin")

    assert ((await box.chat()).status_code, box.jobs()) == (404, [])


async def test_everyone_may_where_the_owner_says_so(make_box: Any) -> None:
    box = await make_box(pull_on_demand="everyone")

    assert (await box.chat("owner/repo:Q4_K_M")).status_code == 503
    assert box.jobs() == ["owner/repo:Q4_K_M"]


async def test_the_official_client_sees_a_503_it_may_retry(make_box: Any) -> None:
    box = await make_box(pull_on_demand="everyone")
    async with openai.AsyncOpenAI(
        base_url=f"{box.api.url}/v1", api_key=box.api.user_key, max_retries=0
    ) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.completions.create(model=QWEN, prompt="x")

    assert caught.value.status_code == 503
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["loading"]["job"] == box.board.find()[0].id


@pytest.mark.parametrize("stream", [False, True])
async def test_streams_are_refused_before_they_begin(make_box: Any, stream: bool) -> None:
    box = await make_box(pull_on_demand="everyone")
    async with box.api.client() as client:
        body = {"model": QWEN, "messages": HELLO, "stream": stream}
        answer = await client.post("/v1/chat/completions", json=body)

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_loading")


@pytest.mark.parametrize(
    "model",
    ["registry.example/ns/m:1", "localhost:5000/m", "https://host.example/m.gguf"],
    ids=["another registry", "this machine", "an address"],
)
async def test_a_chat_sends_the_puller_to_no_other_host(make_box: Any, model: str) -> None:
    box = await make_box(pull_on_demand="everyone")

    assert ((await box.chat(model, admin=True)).status_code, box.jobs()) == (404, [])


async def test_what_is_no_name_is_400_and_what_is_here_is_answered(make_box: Any) -> None:
    box = await make_box(pull_on_demand="everyone")

    assert (await box.chat("../x")).status_code == 400
    assert (await box.chat("tiny")).status_code == 200
    assert box.jobs() == []


@pytest.mark.parametrize(
    ("state", "fields", "said"),
    [
        (
            JobState.FAILED,
            {"error": "the registry has no model 'qwen3:0.6b'"},
            "failed: the registry has no",
        ),
        (JobState.CANCELLED, {}, "its download was cancelled"),
    ],
)
async def test_a_download_that_just_ended_badly_is_the_answer(
    make_box: Any, state: JobState, fields: dict[str, str], said: str
) -> None:
    box = await make_box(pull_on_demand="everyone")
    await box.chat()
    box.board.end(box.running(), state, **fields)
    answer = await box.chat()

    assert (answer.status_code, len(box.jobs())) == (404, 1)
    error = answer.json()["error"]
    assert said in error["message"]
    assert (error["code"], error["models"]) == ("model_not_found", ["tiny:latest"])


async def test_a_failure_of_long_ago_is_tried_again(make_box: Any) -> None:
    box = await make_box(pull_on_demand="everyone")
    await box.chat()
    job = box.running()
    box.board.end(job, JobState.FAILED, error="it rained", ended_at=1.0)

    assert ((await box.chat()).status_code, len(box.jobs())) == (503, 2)


async def test_over_grpc_the_progress_is_in_trailing_metadata(make_box: Any) -> None:
    box = await make_box(pull_on_demand="everyone")
    messages = [spindll_pb2.Message(role="user", content="hi")]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{box.grpc_port}") as channel:
        key = (("authorization", f"Bearer {box.api.user_key}"),)
        stub = SpindllStub(channel)
        calls: list[Any] = [
            stub.Chat(spindll_pb2.ChatRequest(model=QWEN, messages=messages), metadata=key),
            stub.Generate(spindll_pb2.GenerateRequest(model=QWEN, prompt="x"), metadata=key),
        ]
        for call in calls:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            trailers = dict(caught.value.trailing_metadata() or ())

            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert (trailers["spindll-error-code"], trailers["retry-after"]) == (
                "model_loading",
                "10",
            )
            loading = json.loads(trailers["spindll-loading"])
            assert loading["job"] == box.board.find()[0].id
    assert len(box.jobs()) == 1


@pytest.mark.parametrize(
    ("said", "means"),
    [("true", "admin"), ("1", "admin"), ("False", "off"), ("Everyone", "everyone")],
)
def test_the_setting_is_a_switch_or_a_word(
    monkeypatch: pytest.MonkeyPatch, said: str, means: str
) -> None:
    monkeypatch.setenv("SPINDLL_PULL_ON_DEMAND", said)

    assert ApiSettings().pull_on_demand == means


def test_another_word_stops_the_api(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPINDLL_PULL_ON_DEMAND", "sometimes")

    with pytest.raises(ValidationError):
        ApiSettings()
