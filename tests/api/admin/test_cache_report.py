"""GET /v1/requests/{id}/cache over real HTTP, with a real Redis and a scripted engine."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from protos import engine_pb2
from services.api.cache_reports.report_store import MAX_REPORTS
from services.shared.redis import redis_keys
from tests.api.chat_helpers import PATH
from tests.api.conftest import Api, running_api
from tests.conftest import RedisServer
from tests.fakes.scripted_engine import ScriptedEngine, delta, finished, started

SYSTEM = "You answer in one word. Canary canary. " * 40


def script(prompt_tokens: int, cached_tokens: int, **fields: Any) -> list[engine_pb2.Event]:
    """An answer to a prompt of which so much was found."""
    end = finished()
    found = {"prompt_tokens": prompt_tokens, "cached_tokens": cached_tokens, **fields}
    for name, value in found.items():
        setattr(end.finished, name, value)
    return [started(prompt_tokens, cached_tokens), delta("Paris."), end]


async def ask(client: httpx.AsyncClient, id_: str, *contents: str, **body: Any) -> None:
    roles = ("system", "user", "assistant", "user")
    messages = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]
    headers = {"x-request-id": id_, **body.pop("headers", {})}
    answer = await client.post(
        PATH, json={"model": "tiny", "messages": messages, **body}, headers=headers
    )
    assert answer.status_code == 200, answer.text


async def read(client: httpx.AsyncClient, id_: str, *, is_finished: bool = True) -> Any:
    """The report, once it is written: nothing waits for that."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        answer = await client.get(f"/v1/requests/{id_}/cache")
        if answer.status_code == 200 and answer.json()["is_finished"] is is_finished:
            return answer.json()
        await asyncio.sleep(0.01)
    raise AssertionError(answer.text)


async def test_a_miss_names_the_first_message_and_field_that_differ(api: Api) -> None:
    async with api.client() as client:
        api.engine.scripts["*"] = script(4000, 0)
        await ask(client, "first", SYSTEM, "hi")
        first = await read(client, "first")
        api.engine.scripts["*"] = script(
            4000, 256, stored_tokens=192, disk_tokens=128, saved_seconds=1.5
        )
        await ask(client, "second", SYSTEM[:131] + "#" + SYSTEM[132:], "hi")
        second = await read(client, "second")

    assert (first["reason"], first["difference"], first["compared_with"]) == (
        "first_request",
        None,
        None,
    )
    assert first["created"] > 1_700_000_000
    assert second == {
        "object": "cache_report",
        "id": "second",
        "created": second["created"],
        "model": "tiny:latest",
        "is_finished": True,
        "prompt_tokens": 4000,
        "computed_tokens": 3744,
        "cached_tokens": {"live": 64, "ram": 64, "disk": 128},
        "saved_seconds_estimate": pytest.approx(1.5, abs=0.01),
        "reason": "diverged",
        "explanation": second["explanation"],
        "compared_with": "first",
        "difference": {"field": "messages[0].content", "change": "differs", "character": 128},
    }


@pytest.mark.parametrize(
    ("cache_write", "reason"), [("always", "lost"), ("second_use", "lost"), ("never", "not_stored")]
)
async def test_an_equal_prompt_that_was_not_found_is_lost_or_was_never_stored(
    api: Api, cache_write: str, reason: str
) -> None:
    api.engine.cache_write = cache_write
    api.engine.scripts["*"] = script(4000, 0)
    async with api.client() as client:
        await ask(client, "first", SYSTEM, "hi")
        await read(client, "first")
        await ask(client, "second", SYSTEM, "hi")

        assert (await read(client, "second"))["reason"] == reason


async def test_the_kinds_of_misses(api: Api) -> None:
    """Each request is compared with the one before it that used the cache."""
    api.engine.scripts["*"] = script(4000, 0)
    key = {"x-spindll-cache-key": "6b" * 32}
    async with api.client() as client:
        reasons = []
        bodies: dict[str, dict[str, Any]] = {
            "no-cache": {"cache_prompt": False},
            "first": {},
            "private": {"headers": key},
        }
        for id_, body in bodies.items():
            await ask(client, id_, SYSTEM, "hi", **body)
            reasons.append((await read(client, id_))["reason"])
        api.engine.scripts["*"] = script(5000, 4000)
        await ask(client, "turn", SYSTEM, "hi", "Paris.", "and Italy?", headers=key)
        turn = await read(client, "turn")

    assert reasons == ["cache_off", "first_request", "other_private_key"]
    assert (turn["reason"], turn["difference"]["field"]) == ("new_text", "messages[2]")


async def test_a_running_request_has_a_report(api: Api) -> None:
    end = asyncio.Event()
    *begin, last = script(4000, 300)
    begin[0].started.stored_tokens, begin[0].started.disk_tokens = 256, 200
    api.engine.scripts["*"] = [*begin, end, last]
    async with api.client() as client:
        running = asyncio.create_task(ask(client, "running", SYSTEM, "hi"))
        report = await read(client, "running", is_finished=False)
        end.set()
        await running
        after = await read(client, "running")

    assert (report["computed_tokens"], report["reason"]) == (3700, "first_request")
    assert report["cached_tokens"] == {"live": 44, "ram": 56, "disk": 200}
    assert report["saved_seconds_estimate"] is None
    assert after["created"] == report["created"]


async def test_every_worker_answers_and_compares_with_what_another_one_served(
    tmp_path: Path, redis_url: str, engine: ScriptedEngine, api: Api
) -> None:
    engine.scripts["*"] = script(4000, 0)
    async with (
        running_api(tmp_path, redis_url, engine) as other,
        api.client() as here,
        other.client() as there,
    ):
        await ask(here, "first", SYSTEM, "hi")
        assert (await read(there, "first"))["reason"] == "first_request"
        await ask(there, "second", SYSTEM, "hello")
        report = await read(here, "second")

    assert (report["compared_with"], report["difference"]["field"]) == (
        "first",
        "messages[1].content",
    )


async def test_another_key_finds_nothing_and_an_admin_everything(api: Api) -> None:
    async with api.client(api.admin_key) as admin, api.client() as user:
        created = await admin.post("/v1/keys", json={"name": "bob"})
        await ask(user, "shared-id", SYSTEM, "hi")
        await read(user, "shared-id")
        async with api.client(created.json()["key"]) as bob:
            refused = await bob.get("/v1/requests/shared-id/cache")
            await ask(bob, "shared-id", "other", "hi")
            bobs = await read(bob, "shared-id")
        seen = await read(admin, "shared-id")
        own = await read(user, "shared-id")
        unknown = await user.get("/v1/requests/unknown/cache")

    assert (refused.status_code, unknown.status_code) == (404, 404)
    assert refused.json() == unknown.json()
    assert (bobs["reason"], own["reason"]) == ("first_request", "first_request")
    assert seen["created"] >= own["created"]


async def test_redis_has_no_text_and_keeps_reports_for_an_hour(
    api: Api, redis_server: RedisServer
) -> None:
    async with api.client() as client:
        await ask(client, "first", SYSTEM, "the canary question", tools=[tool("canary_tool")])
        await read(client, "first")
    with redis.Redis.from_url(redis_server.url) as connection:
        keys = list(connection.scan_iter("spindll:cache_*"))
        texts = [text for key in keys if b"reports" not in key for text in connection.hvals(key)]
        lifetimes = [connection.ttl(key) for key in keys]

    assert len(keys) == 3
    assert all(0 < seconds <= redis_keys.CACHE_REPORT_SECONDS for seconds in lifetimes)
    assert len(texts) == 2
    assert b"anary" not in b"".join(texts)


async def test_a_key_keeps_only_its_last_reports(api: Api, redis_server: RedisServer) -> None:
    with redis.Redis.from_url(redis_server.url) as connection:
        async with api.client() as client:
            await ask(client, "oldest", SYSTEM, "hi")
            await read(client, "oldest")
            (ids,) = connection.keys("spindll:cache_reports:*")
            connection.rpush(ids, *(f"r{n}" for n in range(MAX_REPORTS - 1)))
            await ask(client, "newest", SYSTEM, "hi")
            await read(client, "newest")
            gone = await client.get("/v1/requests/oldest/cache")

            assert gone.status_code == 404
            assert connection.llen(ids) == MAX_REPORTS


async def test_without_redis_a_chat_is_answered_and_its_report_is_missing(
    api: Api, redis_server: RedisServer
) -> None:
    async with api.client() as client:
        with redis_server.frozen():
            await ask(client, "first", SYSTEM, "hi")
            answer = await client.get("/v1/requests/first/cache")

    assert answer.status_code == 503


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": name}}
