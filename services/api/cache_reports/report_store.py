"""Keeps reports in Redis for an hour, the last few hundred of each API key.

    spindll:cache_report:{request}     hash: id of the API key -> Report
    spindll:cache_reports:{principal}  list: ids of the key's requests, the newest last
    spindll:cache_asked:{principal}    hash: model -> Asked, of the key's last request for it

Two keys may choose the same id for a request, and each finds its own. Every worker finds the
reports of all.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar, cast

import msgspec
import redis.asyncio

from services.api.cache_reports.report import Asked, Report
from services.shared.redis import redis_keys

T = TypeVar("T")

MAX_REPORTS = 256  # of one API key
MAX_MODELS = 16  # with which one API key is compared


class ReportStore:
    """See the module. Every method may raise redis.RedisError."""

    def __init__(self, connection: redis.asyncio.Redis) -> None:
        self._redis = connection

    async def replace_asked(self, principal: str, model: str, asked: Asked) -> Asked | None:
        """Record the last request of a key for a model; the one before it."""
        key = redis_keys.cache_asked(principal)
        async with self._redis.pipeline() as pipe:
            pipe.hget(key, model)
            pipe.hset(key, model, msgspec.json.encode(asked).decode())
            pipe.expire(key, redis_keys.CACHE_REPORT_SECONDS)
            pipe.hlen(key)
            before, _, _, count = await pipe.execute()
        if count > MAX_MODELS:
            names = await cast("Awaitable[list[str]]", self._redis.hkeys(key))
            others = [name for name in names if name != model]
            await self._redis.hdel(key, *others[: count - MAX_MODELS])
        return None if before is None else _decode(before, Asked)

    async def put(self, principal: str, request_id: str, report: Report) -> None:
        """Record the report of a new request, or the last word on one that was recorded."""
        key = redis_keys.cache_report(request_id)
        ids = redis_keys.cache_reports(principal)
        async with self._redis.pipeline() as pipe:
            pipe.hset(key, principal, msgspec.json.encode(report).decode())
            pipe.expire(key, redis_keys.CACHE_REPORT_SECONDS)
            pipe.lrem(ids, 0, request_id)
            pipe.rpush(ids, request_id)
            pipe.expire(ids, redis_keys.CACHE_REPORT_SECONDS)
            *_, count, _ = await pipe.execute()
        if count > MAX_REPORTS:
            await self._forget_oldest(principal, count - MAX_REPORTS)

    async def find(self, request_id: str, principal: str | None) -> Report | None:
        """The report of a key's request; of `None`, the newest with this id, whoever asked."""
        key = redis_keys.cache_report(request_id)
        if principal is None:
            found: list[bytes | str | None] = list(await self._redis.hvals(key))
        else:
            found = [await self._redis.hget(key, principal)]
        reports = [report for text in found if text and (report := _decode(text, Report))]
        return max(reports, key=lambda report: report.created_at, default=None)

    async def _forget_oldest(self, principal: str, count: int) -> None:
        ids = await self._redis.lpop(redis_keys.cache_reports(principal), count)
        async with self._redis.pipeline() as pipe:
            for request_id in ids or ():
                pipe.hdel(redis_keys.cache_report(str(request_id)), principal)
            await pipe.execute()


def _decode(text: str | bytes, kind: type[T]) -> T | None:
    """None for what another version wrote."""
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError:
        return None
