"""OpenAI's model routes over real HTTP, and how models are resolved by name."""

from __future__ import annotations

import openai
import pytest
import redis

from services.shared.pulls.commands import JobCommands
from services.shared.pulls.job import JobState, PullJob
from services.shared.pulls.job_store import JobStore
from tests.api.conftest import Api, make_manifest, put_model


async def test_the_official_client_lists_and_shows_models(api: Api) -> None:
    async with openai.AsyncOpenAI(base_url=f"{api.url}/v1", api_key=api.user_key) as client:
        listed = [model.id async for model in client.models.list()]
        shown = await client.models.retrieve("tiny")

    assert listed == ["tiny:latest"]
    assert (shown.id, shown.object, shown.created) == ("tiny:latest", "model", 1_700_000_000)


async def test_a_model_has_the_fields_that_model_pickers_show(api: Api) -> None:
    async with api.client() as client:
        model = (await client.get("/v1/models/tiny:latest")).json()

    # The engine's, not what the model was trained for: clients fill what is reported.
    assert (model["context_length"], model["max_model_len"]) == (256, 256)
    assert model["trained_context_length"] == 512
    assert model["capabilities"] == ["chat", "completion"]
    assert (model["format"], model["backend"]) == ("gguf", "llamacpp")


async def test_models_are_listed_while_the_engine_is_away(api: Api) -> None:
    await api.engine.stop()
    async with api.client() as client:
        answer = await client.get("/v1/models")

    assert answer.json()["data"][0]["context_length"] == 512


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
async def test_an_invalid_name_is_400(api: Api, name: str) -> None:
    async with api.client() as client:
        answer = await client.post("/v1/completions", json={"model": name, "prompt": "x"})

    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_model_name"


async def test_a_model_that_is_being_downloaded_is_503_with_its_progress(
    api: Api, redis_url: str
) -> None:
    with redis.Redis.from_url(redis_url) as client_of_redis:
        job = PullJob(
            id="job1",
            model="qwen3:0.6b",
            state=JobState.QUEUED,
            created_at=1.0,
            downloaded_bytes=25,
            total_bytes=100,
        )
        JobCommands(client_of_redis, JobStore(client_of_redis)).create(job)
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
