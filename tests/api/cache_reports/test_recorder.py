"""Which requests get a report while very many are open."""

from __future__ import annotations

import asyncio

import redis.asyncio

from services.api.access.keys import Role
from services.api.access.principal import Principal
from services.api.cache_reports.recorder import MAX_OPEN, CacheReports, Recording
from services.api.cache_reports.report_store import ReportStore
from tests.api.conftest import make_manifest


def start(reports: CacheReports, key: str, number: int) -> Recording | None:
    return reports.start(
        f"req-{number}",
        Principal(key, Role.USER, key, fingerprint_key=b"k"),
        ("a prompt",),
        manifest=make_manifest("m:latest"),
        tenant=key,
        private_key=b"",
        uses_cache=True,
    )


async def test_a_key_with_very_many_open_requests_leaves_places_to_another(redis_url: str) -> None:
    async with redis.asyncio.Redis.from_url(redis_url) as connection:
        reports = CacheReports(ReportStore(connection))
        flood = [start(reports, "key_a", number) for number in range(2 * MAX_OPEN)]
        others = [start(reports, "key_b", number) for number in range(10)]
        await reports.close()

    assert sum(recording is not None for recording in flood) == MAX_OPEN // 2
    assert all(others)


async def test_an_ended_request_gives_its_place_back(redis_url: str) -> None:
    async with redis.asyncio.Redis.from_url(redis_url) as connection, asyncio.timeout(10):
        reports = CacheReports(ReportStore(connection))
        first = start(reports, "key_a", 0)
        while start(reports, "key_a", 1) is not None:
            pass
        assert first is not None
        first.finish(None, prompt_seconds=0.0)
        while start(reports, "key_a", 2) is None:
            await asyncio.sleep(0)
        await reports.close()
