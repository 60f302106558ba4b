"""The key hashes in Redis, and the cache in front of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis
import redis.asyncio

from services.api.access.key_files import load_key_files
from services.api.access.keys import KeyCache, KeyStore, Role, hash_key
from services.shared import redis_keys
from services.shared.redis_client import connect_async
from tests.api.conftest import Api


@pytest.fixture
async def connection(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    client = connect_async(redis_url)
    yield client
    await client.aclose()


async def test_redis_holds_only_the_hashes_of_keys(api: Api, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        stored = client.hgetall(redis_keys.API_KEYS)

    assert set(stored) == {
        hash_key(api.user_key).encode(),
        hash_key(api.admin_key).encode(),
    }
    assert not any(api.user_key.encode() in value for value in stored.values())


async def test_a_redis_that_lost_its_data_gets_the_file_keys_again(
    tmp_path: Path, connection: redis.asyncio.Redis
) -> None:
    store = KeyStore(connection)
    await store.open(load_key_files(tmp_path))
    digest = hash_key((tmp_path / "user.key").read_text().strip())
    await connection.flushall()

    found = await store.find(digest)

    assert found is not None
    assert found.role is Role.USER
    assert await connection.hlen(redis_keys.API_KEYS) == 2


async def test_replacing_a_key_file_revokes_the_old_key(
    tmp_path: Path, connection: redis.asyncio.Redis
) -> None:
    await KeyStore(connection).open(load_key_files(tmp_path))
    old = hash_key((tmp_path / "user.key").read_text().strip())
    (tmp_path / "user.key").unlink()

    again = KeyStore(connection)
    await again.open(load_key_files(tmp_path))

    assert await again.find(old) is None
    assert await again.find(hash_key((tmp_path / "user.key").read_text().strip())) is not None


def test_the_key_cache_is_bounded() -> None:
    cache = KeyCache(seconds=30, max_entries=10)
    for number in range(1000):
        cache.put(str(number), None)

    assert sum(cache.get(str(number))[0] for number in range(1000)) <= 10
