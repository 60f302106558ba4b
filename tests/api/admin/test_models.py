"""Models, status, health and readiness over real HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest
import redis

from protos import engine_pb2
from services.shared.errors import InsufficientMemory
from services.shared.pulls.commands import JobCommands
from services.shared.pulls.job import JobState, PullJob
from services.shared.pulls.job_store import JobStore
from tests.api.conftest import Api, make_manifest, put_model, running_api
from tests.fakes.scripted_engine import ScriptedEngine


async def test_the_official_client_lists_and_shows_models(api: Api) -> None:
    async with openai.AsyncOpenAI(base_url=f"{api.url}/v1", api_key=api.user_key) as client:
        listed = [model.id async for model in client.models.list()]
        shown = await client.models.retrieve("tiny")

    assert listed == ["tiny:latest"]
    assert (shown.id, shown.object, shown.created) == ("tiny:latest", "model", 1_700_000_000)


async def test_a_model_tells_what_pickers_ask(api: Api) -> None:
    async with api.client() as client:
        model = (await client.get("/v1/models/tiny:latest")).json()

    assert model["context_length"] == 512
    assert model["capabilities"] == ["chat", "completion"]
    assert model["format"] == "gguf"


async def test_names_with_slashes_are_found(api: Api) -> None:
    put_model(api.data_dir / "models", make_manifest("owner/repo:Q4_K_M"))
    async with api.client(api.admin_key) as client:
        shown = await client.get("/v1/models/owner/repo:Q4_K_M")
        plan = await client.post("/v1/models/owner/repo:Q4_K_M/plan")

    assert shown.json()["id"] == "owner/repo:Q4_K_M"
    assert plan.json()["model"] == "owner/repo:Q4_K_M"


async def test_an_unknown_model_is_404(api: Api) -> None:
    async with api.client() as client:
        answer = await client.get("/v1/models/nope")

    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"
    assert answer.json()["error"]["models"] == ["tiny:latest"]


@pytest.mark.parametrize("name", ["../../etc/passwd", "%00", "a" * 3000], ids=["up", "nul", "long"])
async def test_a_name_that_is_none_is_400(api: Api, name: str) -> None:
    async with api.client() as client:
        answer = await client.post("/v1/completions", json={"model": name, "prompt": "x"})

    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_model_name"


async def test_a_model_on_its_way_is_503_with_its_progress(api: Api, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client_of_redis:
        order = PullJob(
            id="job1",
            model="qwen3:0.6b",
            state=JobState.QUEUED,
            created_at=1.0,
            downloaded_bytes=25,
            total_bytes=100,
        )
        JobCommands(client_of_redis, JobStore(client_of_redis)).create(order)
        async with api.client() as client:
            answer = await client.post(
                "/v1/completions", json={"model": "qwen3:0.6b", "prompt": "x"}
            )

    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    error = answer.json()["error"]
    assert error["code"] == "model_loading"
    assert error["loading"]["job"] == "job1"
    assert (error["loading"]["progress"], error["loading"]["state"]) == (0.25, "queued")


async def test_plan_load_unload_are_the_engines_answers(api: Api) -> None:
    async with api.client(api.admin_key) as client:
        plan = (await client.post("/v1/models/tiny/plan", json={"context_length": 64})).json()
        load = (await client.post("/v1/models/tiny/load", json={"keep_alive": "5m"})).json()
        unload = (await client.post("/v1/models/tiny/unload", json={"force": True})).json()

    assert (plan["action"], plan["evict"], plan["model"]) == (
        "evict",
        ["other:latest"],
        "tiny:latest",
    )
    assert load["model"]["name"] == "tiny:latest"
    assert "pid" not in load["model"]
    assert unload == {"model": "tiny:latest", "was_loaded": True}
    assert api.engine.calls == [
        engine_pb2.PlanRequest(
            model="tiny:latest", settings=engine_pb2.ModelSettings(context_length=64)
        ),
        engine_pb2.LoadRequest(
            model="tiny:latest", settings=engine_pb2.ModelSettings(keep_alive_seconds=300)
        ),
        engine_pb2.UnloadRequest(model="tiny:latest", force=True),
    ]


async def test_a_load_the_engine_refuses_says_why(api: Api) -> None:
    api.engine.unary_error = InsufficientMemory("needs 9 GiB, the budget is 8 GiB")
    async with api.client(api.admin_key) as client:
        answer = await client.post("/v1/models/tiny/load")

    assert answer.status_code == 507
    assert answer.json()["error"]["message"] == "needs 9 GiB, the budget is 8 GiB"


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"context_length": -1}, "context_length"),
        ({"cache_type_k": "f17"}, "cache_type_k"),
        ({"keep_alive": "soon"}, "keep_alive"),
    ],
    ids=str,
)
async def test_bad_load_options_name_the_field(
    api: Api, options: dict[str, Any], param: str
) -> None:
    async with api.client(api.admin_key) as client:
        answer = await client.post("/v1/models/tiny/load", json=options)

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_status_tells_what_runs(api: Api) -> None:
    async with api.client() as client:
        status = (await client.get("/v1/status")).json()

    assert status["models"] == {"total": 1, "loaded": 1, "loaded_models": ["tiny:latest"]}
    assert (status["running"], status["queued"]) == (1, 2)
    assert status["engine"]["models"][0]["state"] == "ready"
    assert status["engine"]["models"][0]["memory_bytes"] == 2**33
    assert "pid" not in str(status)


async def test_ready_when_a_chat_would_succeed(api: Api) -> None:
    api.engine.problems = ["other:latest died three times"]
    async with api.client("") as client:
        answer = await client.get("/ready")

    assert answer.status_code == 200
    assert answer.json() == {
        "ready": True,
        "missing": [],
        "checks": {"redis": "ok", "engine": "ok", "models": "ok"},
        "problems": ["other:latest died three times"],
    }


async def test_not_ready_while_the_engine_stops(api: Api) -> None:
    api.engine.accepting = False
    async with api.client("") as client:
        answer = await client.get("/ready")

    assert answer.status_code == 503
    assert answer.json()["missing"] == ["the engine is stopping"]


async def test_not_ready_without_anything_says_all_that_is_missing(
    tmp_path: Path, redis_url: str
) -> None:
    nobody = ScriptedEngine()
    async with (
        running_api(tmp_path, f"unix://{tmp_path}/none", nobody) as api,
        api.client("") as client,
    ):
        answer = await client.get("/ready")
        health = await client.get("/health")

    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "2"
    assert answer.json()["missing"] == [
        "Redis does not answer",
        "the engine does not answer",
        "no model is here yet: pull one with POST /v1/pulls",
    ]
    assert str(tmp_path) not in answer.text
    assert health.status_code == 200


async def test_a_chat_without_an_engine_is_503_with_retry_after(
    tmp_path: Path, redis_url: str
) -> None:
    put_model(tmp_path / "data" / "models", make_manifest())
    async with (
        running_api(tmp_path, redis_url, ScriptedEngine()) as api,
        api.client() as client,
    ):
        answer = await client.post("/v1/completions", json={"model": "tiny", "prompt": "x"})

    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "2"
    assert answer.json()["error"]["code"] == "engine_unavailable"
