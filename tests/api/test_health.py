"""Health and readiness over real HTTP."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from services import __version__
from tests.api.conftest import Api, make_manifest, put_model, running_api
from tests.fakes.scripted_engine import ScriptedEngine


async def test_ready_when_a_chat_would_succeed(api: Api) -> None:
    api.engine.problems = ["other:latest died three times"]
    async with api.client() as client:
        answer = await client.get("/ready")

    assert answer.status_code == 200
    assert answer.json() == {
        "ready": True,
        "missing": [],
        "checks": {"redis": "ok", "engine": "ok", "models": "ok"},
        "problems": ["other:latest died three times"],
    }


@pytest.mark.parametrize("key", ["", "sk-wrong"], ids=["no key", "a wrong key"])
async def test_strangers_see_neither_problems_nor_the_version(api: Api, key: str) -> None:
    api.engine.problems = ["secret-project:latest died three times"]
    async with api.client(key) as client:
        ready, health = await client.get("/ready"), await client.get("/health")

    assert ready.status_code == 200
    assert set(ready.json()) == {"ready", "missing", "checks"}
    assert "secret-project" not in ready.text
    assert health.json() == {"status": "ok"}


async def test_a_key_sees_the_version(api: Api) -> None:
    async with api.client() as client:
        assert (await client.get("/health")).json() == {"status": "ok", "version": __version__}


async def test_many_requests_at_once_check_once(api: Api, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as connected:

        def count_pings() -> int:
            calls = cast("dict[str, Any]", connected.info("commandstats"))
            return int(calls.get("cmdstat_ping", {}).get("calls", 0))

        before, started = count_pings(), time.monotonic()
        async with api.client("") as client:
            answers = await asyncio.gather(*(client.get("/ready") for _ in range(200)))
        seconds = time.monotonic() - started

        assert {answer.status_code for answer in answers} == {200}
        assert count_pings() - before <= seconds + 1


async def test_not_ready_while_the_engine_is_stopping(api: Api) -> None:
    api.engine.is_accepting = False
    async with api.client("") as client:
        answer = await client.get("/ready")

    assert answer.status_code == 503
    assert answer.json()["missing"] == ["the engine is stopping"]


async def test_not_ready_while_the_engine_refuses_every_load(api: Api) -> None:
    api.engine.lacks_required_gpu = True
    api.engine.problems = ["GPU: driver 470.1 is too old"]
    async with api.client("") as client:
        answer = await client.get("/ready")
    async with api.client() as client:
        problems = (await client.get("/ready")).json()["problems"]

    assert answer.status_code == 503
    assert answer.json()["missing"] == ["the engine requires a GPU and can use none"]
    assert "driver" not in answer.text
    assert problems == ["GPU: driver 470.1 is too old"]


async def test_the_readiness_report_lists_everything_that_is_missing(
    tmp_path: Path, redis_url: str
) -> None:
    unreachable = ScriptedEngine()
    async with (
        running_api(tmp_path, f"unix://{tmp_path}/none", unreachable) as api,
        api.client("") as client,
    ):
        answer = await client.get("/ready")
        health = await client.get("/health")

    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "2"
    assert answer.json()["missing"] == [
        "Redis does not answer",
        "the engine does not answer",
        "no model is stored yet: pull one with POST /v1/pulls",
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
