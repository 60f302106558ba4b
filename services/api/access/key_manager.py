"""Creates, lists and revokes API keys.

The text of a key is known to its holder only: Redis gets its hash. The keys of the key files are
listed too, but only their files change them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import msgspec
import redis.asyncio
from redis.exceptions import RedisError

from services.api.access.key_files import KeyFiles
from services.api.access.keys import (
    RETRY_SECONDS,
    ApiKey,
    Role,
    build_key_id,
    hash_key,
    new_key,
    parse_record,
)
from services.shared.errors import Conflict, NotFound, Unavailable
from services.shared.redis import redis_keys

logger = logging.getLogger(__name__)

MAX_KEYS = 1000  # each worker reads them all
_REDIS_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class ListedKey:
    """A key, and what is known of its use."""

    key: ApiKey
    last_used_at: float | None  # unix seconds; of a key in a file, it is not known
    is_file: bool


class KeyManager:
    """The keys of all workers. Every method raises Unavailable when Redis cannot be asked."""

    def __init__(self, client: redis.asyncio.Redis, files: KeyFiles) -> None:
        self._redis = client
        self._files = files

    async def list(self) -> list[ListedKey]:
        """All keys, those of the files first, then the newest first."""
        keys, used = await self._read()
        listed = [ListedKey(key, None, is_file=True) for key in self._files.list()]
        created = sorted(keys.values(), key=lambda key: key.created_at, reverse=True)
        for key in created:
            seconds = used.get(key.id)
            listed.append(ListedKey(key, float(seconds) if seconds else None, is_file=False))
        return listed

    async def create(
        self, name: str, *, role: Role, tenant: str, expires_in_seconds: float | None
    ) -> tuple[ApiKey, str]:
        """A new key, and its text. When this returns, every worker accepts it."""
        text, now = new_key(), time.time()
        digest = hash_key(text)
        key = ApiKey(
            id=build_key_id(digest),
            hash=digest,
            role=role,
            name=name,
            created_at=now,
            expires_at=None if expires_in_seconds is None else now + expires_in_seconds,
            tenant=tenant,
        )
        try:
            async with asyncio.timeout(_REDIS_SECONDS):
                if await self._redis.hlen(redis_keys.API_KEYS) >= MAX_KEYS:
                    raise Conflict(f"there are {MAX_KEYS} keys already; revoke some")
                raw = msgspec.json.encode(key).decode()
                await self._redis.hset(redis_keys.API_KEYS, digest, raw)
        except (RedisError, OSError, TimeoutError) as error:
            raise _unavailable() from error
        logger.info("API key created", extra={"key": key.id, "role": role.value})
        # A worker may have looked just before, and looks for unknown keys at this interval.
        await asyncio.sleep(RETRY_SECONDS)
        return key, text

    async def revoke(self, id_: str) -> ApiKey:
        """Remove a key: workers accept it for REFRESH_SECONDS more. Raises NotFound, Conflict."""
        if any(key.id == id_ for key in self._files.list()):
            raise Conflict("this key is in a key file: replace or empty the file to end it")
        keys, _ = await self._read()
        if id_ not in keys:
            raise NotFound(f"there is no key {id_!r}")
        key = keys[id_]
        try:
            async with asyncio.timeout(_REDIS_SECONDS):
                async with self._redis.pipeline(transaction=True) as pipeline:
                    pipeline.hdel(redis_keys.API_KEYS, key.hash)
                    pipeline.hdel(redis_keys.API_KEYS_USED, key.id)
                    await pipeline.execute()
        except (RedisError, OSError, TimeoutError) as error:
            raise _unavailable() from error
        logger.info("API key revoked", extra={"key": key.id, "role": key.role.value})
        return key

    async def _read(self) -> tuple[dict[str, ApiKey], Mapping[str, str]]:
        """The keys by id, and the times of their last uses by id."""
        try:
            async with asyncio.timeout(_REDIS_SECONDS):
                records = await self._redis.hgetall(redis_keys.API_KEYS)
                used = await self._redis.hgetall(redis_keys.API_KEYS_USED)
        except (RedisError, OSError, TimeoutError) as error:
            raise _unavailable() from error
        keys = {}
        for digest, raw in cast("dict[str, str]", records).items():
            key = parse_record(digest, raw)
            if key is not None and not key.from_file:
                keys[key.id] = key
        return keys, cast("dict[str, str]", used)


def _unavailable() -> Unavailable:
    return Unavailable("API keys cannot be read or changed right now")
