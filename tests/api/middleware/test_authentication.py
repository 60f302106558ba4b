"""Keys: there from the first start, needed everywhere, never in the clear."""

from __future__ import annotations

import asyncio
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import redis
import redis.asyncio
from redis.exceptions import ConnectionError as RedisConnectionError

from services.api.access.keys import (
    ApiKey,
    KeyCache,
    KeyStore,
    Role,
    digest_of,
    make_key_files,
    read_key_files,
)
from services.api.middleware.authentication import Authenticator, key_of
from services.shared import redis_keys
from services.shared.errors import NotAuthenticated, Unavailable
from services.shared.redis_client import connect_async
from tests.api.conftest import Api


@pytest.fixture
async def connection(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    client = connect_async(redis_url)
    yield client
    await client.aclose()


def test_the_first_start_makes_two_keys_nobody_else_can_read(tmp_path: Path) -> None:
    make_key_files(tmp_path / "secrets")

    files = sorted((tmp_path / "secrets").iterdir())
    assert [file.name for file in files] == ["admin.key", "user.key"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert all(file.read_text().startswith("sk-") for file in files)
    assert len({file.read_text() for file in files}) == 2
    assert all(len(file.read_text().strip()) == 46 for file in files)


def test_a_later_start_keeps_the_keys(tmp_path: Path) -> None:
    make_key_files(tmp_path)
    before = read_key_files(tmp_path)
    make_key_files(tmp_path)

    assert read_key_files(tmp_path) == before
    assert {key.role for key in before.values()} == set(Role)


async def test_starters_at_the_same_time_agree_on_one_key(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib; from services.api.access.keys import make_key_files, read_key_files;"
        "d = pathlib.Path(sys.argv[1]); make_key_files(d); print(sorted(read_key_files(d)))"
    )
    started = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, str(tmp_path), stdout=asyncio.subprocess.PIPE
        )
        for _ in range(3)
    ]
    outputs = {(await process.communicate())[0] for process in started}

    assert len(outputs) == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["admin.key", "user.key"]


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
def test_where_a_key_may_be(headers: dict[str, str], key: str) -> None:
    assert key_of(headers) == key


@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions", "/nowhere", "/"])
@pytest.mark.parametrize("key", ["", "sk-wrong"], ids=["no key", "wrong key"])
async def test_without_a_good_key_everything_is_401(api: Api, path: str, key: str) -> None:
    async with api.client(key) as client:
        answer = await client.get(path)

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"]["type"] == "authentication_error"
    assert answer.json()["error"]["code"] == "invalid_api_key"


async def test_health_and_ready_need_no_key(api: Api) -> None:
    async with api.client("") as client:
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/ready")).status_code == 200


async def test_x_api_key_works_too(api: Api) -> None:
    async with httpx.AsyncClient(headers={"x-api-key": api.user_key}) as client:
        assert (await client.get(f"{api.url}/v1/models")).status_code == 200


@pytest.mark.parametrize("call", ["load", "unload", "plan"])
async def test_the_user_key_may_not_touch_memory(api: Api, call: str) -> None:
    async with api.client() as client:
        answer = await client.post(f"/v1/models/tiny/{call}", json={})

    assert answer.status_code == 403
    assert answer.json()["error"]["type"] == "permission_error"


async def test_redis_holds_hashes_only(api: Api, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        stored = client.hgetall(redis_keys.API_KEYS)

    assert set(stored) == {
        digest_of(api.user_key).encode(),
        digest_of(api.admin_key).encode(),
    }
    assert not any(api.user_key.encode() in value for value in stored.values())


async def test_a_redis_that_lost_everything_learns_the_files_keys_again(
    tmp_path: Path, connection: redis.asyncio.Redis
) -> None:
    store = KeyStore(connection, tmp_path)
    await store.open()
    digest = digest_of((tmp_path / "user.key").read_text().strip())
    await connection.flushall()

    found = await store.find(digest)

    assert found is not None
    assert found.role is Role.USER
    assert await connection.hlen(redis_keys.API_KEYS) == 2


async def test_a_replaced_key_file_ends_the_old_key(
    tmp_path: Path, connection: redis.asyncio.Redis
) -> None:
    await KeyStore(connection, tmp_path).open()
    old = digest_of((tmp_path / "user.key").read_text().strip())
    (tmp_path / "user.key").unlink()

    again = KeyStore(connection, tmp_path)
    await again.open()

    assert await again.find(old) is None
    assert await again.find(digest_of((tmp_path / "user.key").read_text().strip())) is not None


async def test_without_redis_the_files_still_open_the_door(tmp_path: Path) -> None:
    gone = redis.asyncio.Redis(unix_socket_path=str(tmp_path / "nothing"), decode_responses=True)
    store = KeyStore(gone, tmp_path)
    await store.open()
    authenticator = Authenticator(store, KeyCache(seconds=30))

    principal = await authenticator.principal(
        {"x-api-key": (tmp_path / "admin.key").read_text().strip()}
    )

    assert principal.role is Role.ADMIN
    with pytest.raises(Unavailable):
        await authenticator.principal({"x-api-key": "sk-other"})
    await gone.aclose()


class CountingStore(KeyStore):
    """Counts look-ups, and loses its Redis when told so."""

    def __init__(self, client: redis.asyncio.Redis, secrets_dir: Path) -> None:
        super().__init__(client, secrets_dir)
        self.lookups = 0
        self.is_lost = False

    async def find(self, digest: str) -> ApiKey | None:
        self.lookups += 1
        if self.is_lost:
            raise RedisConnectionError
        return await super().find(digest)


async def test_a_known_key_costs_redis_once(
    tmp_path: Path, connection: redis.asyncio.Redis
) -> None:
    store = CountingStore(connection, tmp_path)
    await store.open()
    authenticator = Authenticator(store, KeyCache(seconds=30))
    credentials = {"x-api-key": (tmp_path / "user.key").read_text().strip()}

    for _ in range(5):
        await authenticator.principal(credentials)
    for _ in range(5):
        with pytest.raises(NotAuthenticated):
            await authenticator.principal({"x-api-key": "sk-guess"})

    assert store.lookups == 2


def test_the_cache_of_answers_is_bounded() -> None:
    cache = KeyCache(seconds=30, max_entries=10)
    for number in range(1000):
        cache.put(str(number), None)

    assert sum(cache.get(str(number))[0] for number in range(1000)) <= 10
