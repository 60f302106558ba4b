"""API keys: their hashes, and a worker's copy of the keys in Redis.

A key is `sk-` and 32 random bytes. Its text exists in its key file (`key_files.py`) or with its
holder only. Redis and the api keep its SHA-256, which for a random key is as good as the slow
hashes that passwords need. Keys of the key files are never in Redis.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import secrets
import time
from collections.abc import Mapping
from enum import Enum
from typing import cast

import msgspec
import redis.asyncio
from redis.exceptions import RedisError

from services.shared.errors import Unavailable
from services.shared.redis import redis_keys
from services.shared.structs import resolved

logger = logging.getLogger(__name__)

KEY_PREFIX = "sk-"
ID_PREFIX = "key_"
_KEY_BYTES = 32

REFRESH_SECONDS = 2.0  # a revoked key ends within this time
RETRY_SECONDS = 1.0  # after a failed read, and for a key that the last read did not find
_REDIS_SECONDS = 2.0
# A key that is known does not wait longer for a Redis that hangs.
_KNOWN_SECONDS = 0.25


class Role(Enum):
    """What a key may do."""

    ADMIN = "admin"  # everything
    USER = "user"  # generate text and read state


@resolved
class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """One key as Redis keeps it, under its hash."""

    id: str
    hash: str
    role: Role
    name: str
    created_at: float  # unix seconds
    expires_at: float | None = None  # unix seconds; None: never
    tenant: str = ""  # see principal.py; empty: the key is a tenant of its own
    from_file: bool = False  # in Redis: a copy of a file's key by an earlier version, not valid


def new_key() -> str:
    """The text of a new key."""
    return f"{KEY_PREFIX}{secrets.token_urlsafe(_KEY_BYTES)}"


def build_key_id(digest: str) -> str:
    """The public id of the key with this hash."""
    return f"{ID_PREFIX}{digest[:12]}"


def hash_key(key: str) -> str:
    """The hexadecimal SHA-256 that is stored instead of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def parse_record(digest: str, raw: str) -> ApiKey | None:
    """The record that is stored under a hash; None if it is not one of this version."""
    try:
        record = msgspec.json.decode(raw, type=ApiKey)
    except msgspec.DecodeError:
        return None
    return record if record.hash == digest else None


class KeyStore:
    """The keys in Redis, as a copy that one read fetches whole. Event loop only.

    However many keys are presented, valid or invented, Redis is read once per REFRESH_SECONDS for
    known keys and once per RETRY_SECONDS for unknown ones. While Redis cannot be read, known keys
    are accepted for `cache_seconds`. The age of the copy counts from the start of its read, so that
    a key which was revoked during the read is not accepted for longer.
    """

    def __init__(self, client: redis.asyncio.Redis, *, cache_seconds: float) -> None:
        self._redis = client
        self._cache_seconds = cache_seconds
        self._keys: Mapping[str, ApiKey] = {}
        self._used: set[str] = set()  # ids of keys that were used since the last read
        self._read_at = -float("inf")
        self._failed_at = -float("inf")
        self._reading: asyncio.Task[None] | None = None
        self._warned: frozenset[str] = frozenset()

    async def find(self, digest: str) -> ApiKey | None:
        """The valid key with this hash, or None. Unavailable while Redis cannot be asked."""
        age = time.monotonic() - self._read_at
        if digest not in self._keys:
            if age >= min(self._cache_seconds, RETRY_SECONDS):
                await self._read_once()
        elif age >= self._cache_seconds:
            await self._read_once()
        elif age >= REFRESH_SECONDS:
            with contextlib.suppress(Unavailable, TimeoutError):
                await asyncio.wait_for(self._read_once(), _KNOWN_SECONDS)
        key = self._keys.get(digest)
        if key is None or (key.expires_at is not None and key.expires_at <= time.time()):
            return None
        self._used.add(key.id)
        return key

    async def _read_once(self) -> None:
        """Read the keys, or wait for the read that is running."""
        if self._reading is None:
            if time.monotonic() - self._failed_at < RETRY_SECONDS:
                raise _unavailable()
            self._reading = asyncio.create_task(self._read(), name="read API keys")
        # A request that is cancelled must not cancel the read of the others.
        await asyncio.shield(self._reading)

    async def _read(self) -> None:
        started_at = time.monotonic()
        try:
            async with asyncio.timeout(_REDIS_SECONDS):
                records = await self._redis.hgetall(redis_keys.API_KEYS)
        except (RedisError, OSError, TimeoutError) as error:
            self._failed_at = time.monotonic()
            logger.warning("API keys cannot be checked", extra={"reason": type(error).__name__})
            raise _unavailable() from error
        else:
            self._keys = self._parse(cast("dict[str, str]", records))
            self._read_at = started_at
            await self._save_uses()
        finally:
            self._reading = None

    async def _save_uses(self) -> None:
        """Save when keys were used. A failure loses that, and nothing else."""
        ids = self._used & {key.id for key in self._keys.values()}
        self._used = set()
        if ids:
            # One command: while it runs, every request waits for this read.
            now = f"{time.time():.0f}"
            uses = [text for id_ in ids for text in (id_, now)]
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(_REDIS_SECONDS):
                    await self._redis.hset(redis_keys.API_KEYS_USED, items=uses)

    def _parse(self, records: Mapping[str, str]) -> dict[str, ApiKey]:
        """The valid records by hash; any other is skipped, with a warning the first time."""
        keys, skipped = {}, set()
        for digest, raw in records.items():
            record = parse_record(digest, raw)
            if record is None:
                skipped.add(digest)
            elif not record.from_file:
                keys[digest] = record
        for digest in skipped - self._warned:
            logger.warning("unknown record of an API key skipped", extra={"key": digest[:12]})
        self._warned = frozenset(skipped)
        return keys


def _unavailable() -> Unavailable:
    return Unavailable("API keys cannot be checked right now")
