"""API keys: their hashes, the record of them in Redis, and a cache in front of Redis.

A key is `sk-` and 32 random bytes. Its text exists in its key file and with its holder. Redis and
the api keep only its SHA-256, which for a random key is as good as the slow hashes that passwords
need. The key files (`key_files.py`) are authoritative for the keys they hold: a Redis that lost its
data gets these keys again, and a key whose file was replaced is removed at the next start.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

import msgspec
import redis.asyncio
from redis.exceptions import RedisError

from services.shared import redis_keys
from services.shared.structs import resolved

logger = logging.getLogger(__name__)


class Role(Enum):
    """What a key may do."""

    ADMIN = "admin"  # everything
    USER = "user"  # generate text and read state


@resolved
class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """One key as Redis keeps it, under its hash."""

    id: str
    hash: str  # repeated here, so that the record found can be compared with the hash looked up
    role: Role
    name: str
    created_at: float  # unix seconds
    from_file: bool = False


def hash_key(key: str) -> str:
    """The hexadecimal SHA-256 that is stored instead of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


class KeyStore:
    """The hashes in Redis.

    The keys of the key files are written to Redis by `open`, and again by `find` when Redis lost
    them.
    """

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._redis = client
        self._file_keys: Mapping[str, ApiKey] = {}

    async def open(self, file_keys: Mapping[str, ApiKey]) -> None:
        """Remember the keys of the key files, by hash, and register them in Redis if it is up."""
        self._file_keys = file_keys
        try:
            await self._register_file_keys()
        except RedisError as error:
            # `find` registers them later.
            logger.warning(
                "could not register keys in Redis", extra={"reason": type(error).__name__}
            )

    async def find(self, digest: str) -> ApiKey | None:
        """The key with this hash, or None.

        Without Redis, the keys of the key files are still found; RedisError for any other.
        """
        file_key = self._file_keys.get(digest)
        try:
            raw = await self._redis.hget(redis_keys.API_KEYS, digest)
            if raw is None and file_key is not None:
                await self._register_file_keys()
        except RedisError:
            if file_key is None:
                raise
            return file_key
        return file_key if raw is None else msgspec.json.decode(raw, type=ApiKey)

    async def _register_file_keys(self) -> None:
        """Make Redis' record of the file keys equal to the key files."""
        known: dict[Any, Any] = await self._redis.hgetall(redis_keys.API_KEYS)
        stale = [digest for digest in _file_key_hashes(known) if digest not in self._file_keys]
        fresh: dict[Any, Any] = {
            digest: msgspec.json.encode(key)
            for digest, key in self._file_keys.items()
            if digest not in known
        }
        if stale:
            await self._redis.hdel(redis_keys.API_KEYS, *stale)
        if fresh:
            await self._redis.hset(redis_keys.API_KEYS, mapping=fresh)


class KeyCache:
    """Recent results of the store, for valid and unknown keys. Bounded."""

    def __init__(self, *, seconds: float, max_entries: int = 4096) -> None:
        self._seconds = seconds
        self._max_entries = max_entries
        self._entries: dict[str, tuple[float, ApiKey | None]] = {}

    def get(self, digest: str) -> tuple[bool, ApiKey | None]:
        """Whether the result is cached, and the result."""
        expires_at, key = self._entries.get(digest, (0.0, None))
        return expires_at > time.monotonic(), key

    def put(self, digest: str, key: ApiKey | None) -> None:
        """Cache a result; that a key is unknown is cached for a tenth of the time only."""
        if len(self._entries) >= self._max_entries:
            # A client that fills the cache with invented keys makes every other key be looked up
            # once more.
            self._entries.clear()
        seconds = self._seconds if key is not None else self._seconds / 10
        self._entries[digest] = (time.monotonic() + seconds, key)


def _file_key_hashes(known: Mapping[str, str]) -> Iterable[str]:
    for digest, raw in known.items():
        if msgspec.json.decode(raw, type=ApiKey).from_file:
            yield digest
