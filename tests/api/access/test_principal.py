"""From the credentials of a request to the principal."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis
import redis.asyncio

from services.api.access.key_files import KeyFiles, create_key_files
from services.api.access.keys import KeyStore, Role
from services.api.access.principal import Authenticator, extract_key
from services.shared.errors import NotAuthenticated, Unavailable
from services.shared.redis.redis_client import connect_async
from tests.api.access.test_keys import ALICE, count_reads, put_record
from tests.conftest import RedisServer

CLIENT = "192.0.2.7"


@pytest.fixture
async def connection(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    client = connect_async(redis_url)
    yield client
    await client.aclose()


def make_authenticator(
    secrets_dir: Path, connection: redis.asyncio.Redis, *, cache_seconds: float = 30
) -> Authenticator:
    create_key_files(secrets_dir)
    return Authenticator(KeyFiles(secrets_dir), KeyStore(connection, cache_seconds=cache_seconds))


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


async def test_hashes_of_prompts_are_keyed_by_the_text_of_the_api_key(
    tmp_path: Path, connection: redis.asyncio.Redis
) -> None:
    authenticator = make_authenticator(tmp_path, connection)
    texts = [(tmp_path / f"{role.value}.key").read_text().strip() for role in Role]
    admin, user, again = [
        await authenticator.authenticate({"x-api-key": text}, client=CLIENT)
        for text in (*texts, texts[1])
    ]

    assert user.fingerprint_key == again.fingerprint_key != admin.fingerprint_key
    assert len(user.fingerprint_key) == 32
    assert "fingerprint" not in repr(user)


async def test_without_redis_the_file_keys_are_still_accepted(tmp_path: Path) -> None:
    gone = redis.asyncio.Redis(unix_socket_path=str(tmp_path / "nothing"), decode_responses=True)
    authenticator = make_authenticator(tmp_path, gone)

    principal = await authenticator.authenticate(
        {"x-api-key": (tmp_path / "admin.key").read_text().strip()}, client=CLIENT
    )

    assert principal.role is Role.ADMIN
    with pytest.raises(Unavailable):
        await authenticator.authenticate({"x-api-key": "sk-other"}, client=CLIENT)
    await gone.aclose()


async def test_a_frozen_redis_delays_no_file_key(
    tmp_path: Path, redis_server: RedisServer, connection: redis.asyncio.Redis
) -> None:
    authenticator = make_authenticator(tmp_path, connection, cache_seconds=0)
    credentials = {"x-api-key": (tmp_path / "user.key").read_text().strip()}

    with redis_server.frozen():
        async with asyncio.timeout(1):  # a read of a frozen Redis takes longer
            for _ in range(100):
                await authenticator.authenticate(credentials, client=CLIENT)


async def test_many_wrong_keys_hardly_ask_redis_and_lock_no_valid_key_out(
    tmp_path: Path, connection: redis.asyncio.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    await put_record(connection)
    authenticator = make_authenticator(tmp_path, connection)
    before, started = await count_reads(connection), time.monotonic()

    with caplog.at_level(logging.WARNING):
        for number in range(10_000):
            with pytest.raises(NotAuthenticated):
                await authenticator.authenticate({"x-api-key": f"sk-{number}"}, client=CLIENT)
        principal = await authenticator.authenticate({"x-api-key": ALICE}, client=CLIENT)

    seconds = time.monotonic() - started
    assert principal.name == "alice"
    assert await count_reads(connection) - before <= seconds + 1
    lines = [record.__dict__ for record in caplog.records]
    assert {line["client"] for line in lines} == {CLIENT}
    assert 10 <= len(lines) <= 10 + seconds / 10
    assert not any("sk-" in str(line) for line in lines)
