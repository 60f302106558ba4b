"""The worker's copy of the keys in Redis."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import msgspec
import pytest
import redis
import redis.asyncio

from services.api.access.keys import REFRESH_SECONDS, ApiKey, KeyStore, Role, hash_key
from services.shared.errors import Unavailable
from services.shared.redis import redis_keys
from services.shared.redis.redis_client import connect_async
from tests.api.conftest import Api
from tests.conftest import RedisServer

ALICE = "sk-alice-0123456789abcdefghij"


@pytest.fixture
async def connection(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    client = connect_async(redis_url)
    yield client
    await client.aclose()


def make_record(key: str = ALICE, **changes: Any) -> dict[str, Any]:
    fields = {
        "id": "key_alice",
        "hash": hash_key(key),
        "role": "user",
        "name": "alice",
        "created_at": 1.0,
    }
    return {**fields, **changes}


async def put_record(connection: redis.asyncio.Redis, key: str = ALICE, **changes: Any) -> str:
    """Store a record; the hash it is stored under."""
    raw = msgspec.json.encode(make_record(key, **changes))
    await connection.hset(redis_keys.API_KEYS, hash_key(key), raw.decode())
    return hash_key(key)


async def count_reads(connection: redis.asyncio.Redis) -> int:
    """How often Redis was asked for keys since it was started."""
    calls = await connection.info("commandstats")
    return sum(calls.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("hget", "hgetall"))


async def test_a_key_in_redis_is_found(connection: redis.asyncio.Redis) -> None:
    digest = await put_record(connection, role="admin")

    assert await KeyStore(connection, cache_seconds=30).find(digest) == ApiKey(
        id="key_alice", hash=digest, role=Role.ADMIN, name="alice", created_at=1.0
    )


async def test_the_keys_of_the_key_files_are_never_written_to_redis(
    api: Api, redis_url: str
) -> None:
    async with api.client() as client:
        assert (await client.get("/v1/models")).status_code == 200

    with redis.Redis.from_url(redis_url) as connected:
        assert connected.keys("*") == []


async def test_a_file_key_that_an_earlier_version_left_in_redis_is_not_valid(
    connection: redis.asyncio.Redis,
) -> None:
    digest = await put_record(connection, from_file=True)

    assert await KeyStore(connection, cache_seconds=30).find(digest) is None


@pytest.mark.parametrize(
    "changes",
    [{"role": "metrics"}, {"created_at": "yesterday"}, {"hash": "of another key"}],
    ids=str,
)
async def test_a_record_of_another_version_is_skipped_with_one_warning(
    connection: redis.asyncio.Redis, changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    unknown = await put_record(connection, "sk-bob-0123456789abcdefghijklm", **changes)
    known = await put_record(connection)
    store = KeyStore(connection, cache_seconds=0)

    with caplog.at_level(logging.WARNING):
        assert await store.find(known) is not None
        assert await store.find(unknown) is None

    assert [record.__dict__["key"] for record in caplog.records] == [unknown[:12]]


async def test_look_ups_at_the_same_time_read_redis_once(connection: redis.asyncio.Redis) -> None:
    digest = await put_record(connection)
    before = await count_reads(connection)
    store = KeyStore(connection, cache_seconds=0)

    found = await asyncio.gather(*(store.find(digest) for _ in range(100)))

    assert all(found)
    assert await count_reads(connection) - before == 1


async def test_a_request_that_is_cancelled_does_not_end_the_read_of_the_others(
    connection: redis.asyncio.Redis,
) -> None:
    digest = await put_record(connection)
    store = KeyStore(connection, cache_seconds=30)
    first = asyncio.create_task(store.find(digest))
    second = asyncio.create_task(store.find(digest))
    await asyncio.sleep(0)
    first.cancel()

    assert await second is not None


async def test_a_revoked_key_ends_after_the_cache_time(connection: redis.asyncio.Redis) -> None:
    digest = await put_record(connection)
    store = KeyStore(connection, cache_seconds=0.01)
    assert await store.find(digest) is not None

    await connection.hdel(redis_keys.API_KEYS, digest)
    while await store.find(digest):
        await asyncio.sleep(0.01)


async def test_an_expired_key_is_not_valid(connection: redis.asyncio.Redis) -> None:
    store = KeyStore(connection, cache_seconds=30)
    now = time.time()
    expired = await put_record(connection, ALICE, expires_at=now - 1)
    valid = await put_record(connection, "sk-bob-0123456789abcdefghijklm", expires_at=now + 3600)

    assert await store.find(expired) is None
    assert await store.find(valid) is not None


async def test_while_redis_hangs_known_keys_are_accepted_for_the_cache_time(
    redis_server: RedisServer, connection: redis.asyncio.Redis
) -> None:
    digest = await put_record(connection)
    store = KeyStore(connection, cache_seconds=3600)
    assert await store.find(digest) is not None
    store._read_at -= REFRESH_SECONDS
    with redis_server.frozen():
        assert await store.find(digest) is not None
        store._read_at -= 3600
        with pytest.raises(Unavailable):
            await store.find(digest)


async def test_the_last_use_of_a_key_is_saved_with_the_next_read(
    connection: redis.asyncio.Redis,
) -> None:
    digest = await put_record(connection)
    store = KeyStore(connection, cache_seconds=0)
    before = time.time()
    await store.find(digest)
    await store.find(digest)

    used = await connection.hgetall(redis_keys.API_KEYS_USED)
    assert list(used) == ["key_alice"]
    assert float(used["key_alice"]) >= int(before)


async def test_the_last_uses_of_many_keys_are_saved_at_once(
    connection: redis.asyncio.Redis,
) -> None:
    keys = [f"{ALICE}{number}" for number in range(20)]
    digests = [await put_record(connection, key, id=f"key_{key}") for key in keys]
    store = KeyStore(connection, cache_seconds=30)
    for digest in digests:
        await store.find(digest)
    await connection.config_resetstat()
    store._read_at -= 30
    await store.find(digests[0])

    assert len(await connection.hgetall(redis_keys.API_KEYS_USED)) == 20
    assert (await connection.info("commandstats"))["cmdstat_hset"]["calls"] == 1


class SlowRedis(redis.asyncio.Redis):
    """Holds an answer back, once it was read, until `gate` is set."""

    gate: ClassVar[asyncio.Event]

    async def hgetall(self, name: Any) -> Any:
        found = await super().hgetall(name)
        await self.gate.wait()
        return found


async def test_a_key_revoked_during_a_read_is_not_kept_for_a_whole_cache_time(
    redis_url: str, connection: redis.asyncio.Redis
) -> None:
    digest = await put_record(connection)
    slow = SlowRedis.from_url(redis_url, decode_responses=True)
    gate = SlowRedis.gate = asyncio.Event()
    store = KeyStore(slow, cache_seconds=0.2)

    reading = asyncio.create_task(store.find(digest))
    started = time.monotonic()
    await connection.hdel(redis_keys.API_KEYS, digest)
    while time.monotonic() < started + 0.2:
        await asyncio.sleep(0.01)
    gate.set()
    await reading

    assert await store.find(digest) is None
    await slow.aclose()


async def test_without_redis_a_key_that_is_in_no_file_is_unavailable(
    redis_server: RedisServer, connection: redis.asyncio.Redis
) -> None:
    store = KeyStore(connection, cache_seconds=30)
    with redis_server.frozen():
        with pytest.raises(Unavailable):
            await store.find("unknown")
        with pytest.raises(Unavailable):
            await store.find("other")  # at once: the failed read is remembered
