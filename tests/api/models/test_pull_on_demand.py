"""Requests for a model that is not stored: who may start its download, and what is answered."""

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
from services.api.models import pull_on_demand
from services.api.settings import ApiSettings
from services.shared.pulls.job import JobState, PullJob
from services.shared.pulls.job_queue import JobQueue
from services.shared.pulls.job_store import JobStore
from tests.api.conftest import Api, make_manifest, put_model, running_api
from tests.fakes.scripted_engine import ScriptedEngine
from tests.waiting import free_port

HELLO = [{"role": "user", "content": "hi"}]
QWEN = "qwen3:0.6b"


class RunningApi:
    """A worker with a pull policy, and the jobs it created."""

    def __init__(self, api: Api, client: redis.Redis, grpc_port: int) -> None:
        self.api = api
        self.store = JobStore(client)
        self.queue = JobQueue(client).queue
        self.grpc_port = grpc_port

    async def chat(self, model: str = QWEN, *, admin: bool = False) -> httpx.Response:
        async with self.api.client(self.api.admin_key if admin else None) as client:
            return await client.post(
                "/v1/chat/completions", json={"model": model, "messages": HELLO}
            )

    def jobs(self) -> list[str]:
        return [job.model for job in self.store.find()]

    def claim_newest(self, **progress: Any) -> PullJob:
        """Claim the newest job for a worker, and report this progress."""
        job = self.store.find()[0]
        assert self.store.claim(job.id, job.ticket, "worker") is not None
        self.store.report(job.id, "worker", progress)
        return self.store.get(job.id)


@pytest.fixture
async def start_api(tmp_path: Path, redis_url: str, engine: ScriptedEngine) -> AsyncIterator[Any]:
    put_model(tmp_path / "data" / "models", make_manifest())
    opened: list[AbstractAsyncContextManager[Api]] = []
    with redis.Redis.from_url(redis_url) as client:

        async def make(**settings: Any) -> RunningApi:
            port = free_port()
            context = running_api(
                tmp_path, redis_url, engine, grpc_port=port, drain_seconds=0.1, **settings
            )
            opened.append(context)
            return RunningApi(await context.__aenter__(), client, port)

        yield make
        for context in opened:
            await context.__aexit__(None, None, None)


async def test_by_default_a_request_starts_no_download(start_api: Any) -> None:
    running = await start_api()

    assert [(await running.chat(admin=is_admin)).status_code for is_admin in (False, True)] == [
        404,
        404,
    ]
    assert running.jobs() == []


async def test_an_admins_chat_starts_the_download_and_is_answered_503(start_api: Any) -> None:
    running = await start_api(pull_on_demand="true")
    answer = await running.chat("QWEN3:0.6b", admin=True)

    [job] = running.store.find()
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
    assert running.queue.job_ids == [f"{job.id}-1"]


async def test_a_key_starts_a_limited_number_of_downloads_in_an_hour(
    start_api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull_on_demand, "MAX_STARTED_PER_HOUR", 2)
    running = await start_api(pull_on_demand="everyone")

    statuses = [(await running.chat(f"m{n}:1b")).status_code for n in range(3)]
    again = await running.chat("m0:1b")
    admin = await running.chat("m3:1b", admin=True)

    assert statuses == [503, 503, 404]
    assert (again.status_code, admin.status_code) == (503, 503)
    assert running.jobs() == ["m3:1b", "m1:1b", "m0:1b"]


async def test_later_chats_share_the_job_and_report_its_progress(start_api: Any) -> None:
    running = await start_api(pull_on_demand="admin")
    await running.chat(admin=True)
    job = running.claim_newest(downloaded_bytes=25, total_bytes=100, bytes_per_second=5.0)
    answers = [await running.chat(), await running.chat(admin=True)]

    assert running.jobs() == [job.model]
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


async def test_a_user_starts_no_download_where_only_admins_may(start_api: Any) -> None:
    running = await start_api(pull_on_demand="admin")

    assert ((await running.chat()).status_code, running.jobs()) == (404, [])


async def test_a_user_starts_a_download_where_everyone_may(start_api: Any) -> None:
    running = await start_api(pull_on_demand="everyone")

    assert (await running.chat("owner/repo:Q4_K_M")).status_code == 503
    assert running.jobs() == ["owner/repo:Q4_K_M"]


async def test_the_official_client_sees_a_503_it_may_retry(start_api: Any) -> None:
    running = await start_api(pull_on_demand="everyone")
    async with openai.AsyncOpenAI(
        base_url=f"{running.api.url}/v1", api_key=running.api.user_key, max_retries=0
    ) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.completions.create(model=QWEN, prompt="x")

    assert caught.value.status_code == 503
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["loading"]["job"] == running.store.find()[0].id


@pytest.mark.parametrize("stream", [False, True])
async def test_streams_are_refused_before_they_begin(start_api: Any, stream: bool) -> None:
    running = await start_api(pull_on_demand="everyone")
    async with running.api.client() as client:
        body = {"model": QWEN, "messages": HELLO, "stream": stream}
        answer = await client.post("/v1/chat/completions", json=body)

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_loading")


@pytest.mark.parametrize(
    "model",
    ["registry.example/ns/m:1", "localhost:5000/m", "https://host.example/m.gguf"],
    ids=["another registry", "this machine", "an address"],
)
async def test_a_chat_sends_the_puller_to_no_other_host(start_api: Any, model: str) -> None:
    running = await start_api(pull_on_demand="everyone")

    assert ((await running.chat(model, admin=True)).status_code, running.jobs()) == (404, [])


async def test_an_invalid_name_is_400_and_a_stored_model_is_answered(start_api: Any) -> None:
    running = await start_api(pull_on_demand="everyone")

    assert (await running.chat("../x")).status_code == 400
    assert (await running.chat("tiny")).status_code == 200
    assert running.jobs() == []


@pytest.mark.parametrize(
    ("state", "fields", "reason"),
    [
        (
            JobState.FAILED,
            {"error": "the registry has no model 'qwen3:0.6b'"},
            "failed: the registry has no",
        ),
        (JobState.CANCELLED, {}, "its download was cancelled"),
    ],
)
async def test_a_recent_failure_of_the_download_is_reported(
    start_api: Any, state: JobState, fields: dict[str, str], reason: str
) -> None:
    running = await start_api(pull_on_demand="everyone")
    await running.chat()
    running.store.end(running.claim_newest(), state, **fields)
    answer = await running.chat()

    assert (answer.status_code, len(running.jobs())) == (404, 1)
    error = answer.json()["error"]
    assert reason in error["message"]
    assert (error["code"], error["models"]) == ("model_not_found", ["tiny:latest"])


async def test_a_download_that_failed_long_ago_is_started_again(start_api: Any) -> None:
    running = await start_api(pull_on_demand="everyone")
    await running.chat()
    job = running.claim_newest()
    running.store.end(job, JobState.FAILED, error="a failure", ended_at=1.0)

    assert ((await running.chat()).status_code, len(running.jobs())) == (503, 2)


async def test_over_grpc_the_progress_is_in_trailing_metadata(start_api: Any) -> None:
    running = await start_api(pull_on_demand="everyone")
    messages = [spindll_pb2.Message(role="user", content="hi")]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{running.grpc_port}") as channel:
        key = (("authorization", f"Bearer {running.api.user_key}"),)
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
            assert loading["job"] == running.store.find()[0].id
    assert len(running.jobs()) == 1


@pytest.mark.parametrize(
    ("value", "policy"),
    [("true", "admin"), ("1", "admin"), ("False", "off"), ("Everyone", "everyone")],
)
def test_the_setting_is_a_boolean_or_a_policy(
    monkeypatch: pytest.MonkeyPatch, value: str, policy: str
) -> None:
    monkeypatch.setenv("SPINDLL_PULL_ON_DEMAND", value)

    assert ApiSettings().pull_on_demand == policy


def test_an_unknown_policy_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPINDLL_PULL_ON_DEMAND", "sometimes")

    with pytest.raises(ValidationError):
        ApiSettings()
