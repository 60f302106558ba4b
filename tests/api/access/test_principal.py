"""From the credentials of a request to the principal."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis
import redis.asyncio

from services.api.access.key_files import load_key_files
from services.api.access.keys import ApiKey, KeyCache, KeyStore, Role
from services.api.access.principal import Authenticator, extract_key
from services.shared.errors import NotAuthenticated, Unavailable
from services.shared.redis_client import connect_async


@pytest.fixture
async def connection(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    client = connect_async(redis_url)
    yield client
    await client.aclose()


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({"authorization": "Bearer abc"}, "abc"),
        ({"authorization": "bearer  abc "}, "abc"),
        ({"x-api-key": "abc"}, "abc"),
        ({"authorization": "Basic abc", "x-api-key": "def"}, "def"),
        ({"authorization": "abc"}, ""),
        ({"x-api-key": "a" * 513}, ""),
        ({}, ""),
    ],
    ids=str,
)
def test_the_key_is_read_from_either_header(headers: dict[str, str], key: str) -> None:
    assert extract_key(headers) == key


async def test_without_redis_the_file_keys_are_still_accepted(tmp_path: Path) -> None:
    gone = redis.asyncio.Redis(unix_socket_path=str(tmp_path / "nothing"), decode_responses=True)
    store = KeyStore(gone)
    await store.open(load_key_files(tmp_path))
    authenticator = Authenticator(store, KeyCache(seconds=30))

    principal = await authenticator.authenticate(
        {"x-api-key": (tmp_path / "admin.key").read_text().strip()}
    )

    assert principal.role is Role.ADMIN
    with pytest.raises(Unavailable):
        await authenticator.authenticate({"x-api-key": "sk-other"})
    await gone.aclose()


class CountingStore(KeyStore):
    """Counts look-ups."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        super().__init__(client)
        self.lookups = 0

    async def find(self, digest: str) -> ApiKey | None:
        self.lookups += 1
        return await super().find(digest)


async def test_redis_is_asked_once_for_a_cached_key(
    tmp_path: Path, connection: redis.asyncio.Redis
) -> None:
    store = CountingStore(connection)
    await store.open(load_key_files(tmp_path))
    authenticator = Authenticator(store, KeyCache(seconds=30))
    credentials = {"x-api-key": (tmp_path / "user.key").read_text().strip()}

    for _ in range(5):
        await authenticator.authenticate(credentials)
    for _ in range(5):
        with pytest.raises(NotAuthenticated):
            await authenticator.authenticate({"x-api-key": "sk-guess"})

    assert store.lookups == 2
