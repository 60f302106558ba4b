"""Reports in a real Redis, with the rights that the api has there."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.api.cache_reports.fingerprint import take_fingerprint
from services.api.cache_reports.report import Asked, PromptUse, Report
from services.api.cache_reports.report_store import MAX_MODELS, MAX_REPORTS, ReportStore
from services.shared.redis import redis_keys
from services.shared.redis.redis_client import connect_async
from tests.shared.redis.test_redis_users import GuardedRedis


@pytest.fixture
def guarded() -> Iterator[GuardedRedis]:
    with tempfile.TemporaryDirectory(prefix="spd-") as folder:
        guarded = GuardedRedis(Path(folder))
        yield guarded
        guarded.test.close()
        guarded.server.stop()


def make_report(**changes: Any) -> Report:
    fields: dict[str, Any] = {
        "model": "tiny:latest",
        "created_at": 1.0,
        "use": PromptUse(prompt_tokens=9, cached_tokens=0),
        "is_finished": True,
        "reason": "first_request",
    }
    return Report(**{**fields, **changes})


def make_asked(request_id: str) -> Asked:
    return Asked(
        request_id=request_id,
        tenant=b"t",
        private_key=b"",
        model=b"m",
        fingerprint=take_fingerprint(("text",), b"k" * 32),
    )


async def test_the_store_needs_no_more_rights_than_the_api_has(guarded: GuardedRedis) -> None:
    connection = connect_async(guarded.url("api"), guarded.password_file("api"))
    store = ReportStore(connection)
    try:
        for number in range(MAX_REPORTS + 3):
            await store.put("alice", f"r{number}", make_report(created_at=float(number)))
        await store.put("bob", "r9", make_report(created_at=999.0))

        assert [await store.find(f"r{number}", "alice") for number in range(3)] == [None] * 3
        assert await store.find("r9", "alice") == make_report(created_at=9.0)
        assert await store.find("r9", None) == make_report(created_at=999.0)
        assert await store.find("r9", "carol") is None

        for number in range(MAX_MODELS + 3):
            assert await store.replace_asked("alice", f"m{number}", make_asked("first")) is None
        last = f"m{MAX_MODELS + 2}"
        assert await store.replace_asked("alice", last, make_asked("next")) == make_asked("first")
        assert await connection.hlen(redis_keys.cache_asked("alice")) == MAX_MODELS
        await connection.hset(redis_keys.cache_report("r9"), "alice", "{}")
        assert await store.find("r9", "alice") is None  # of another version
    finally:
        await connection.aclose()
    assert guarded.denied() == []
