"""API keys: the two files of the first start, and the hashes Redis keeps.

A key is `sk-` and 32 random bytes. Its text exists in its file and with its holder; Redis and we
keep the SHA-256, which for a random key is as good as the slow hashes passwords need. The two files
are the truth for the keys they hold: a Redis that lost its data gets them again, and a key whose
file was replaced is forgotten at the next start.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import secrets
import time
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec
import redis.asyncio
from redis.exceptions import RedisError

from services.shared import redis_keys
from services.shared.structs import resolved

logger = logging.getLogger(__name__)

_KEY_BYTES = 32
_READABLE_BY_OTHERS = 0o077


class Role(Enum):
    """What a key may do."""

    ADMIN = "admin"  # everything
    USER = "user"  # ask models, look around


@resolved
class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """One key as Redis keeps it, under its hash."""

    id: str
    hash: str  # again, so that what was found can be compared with what was asked
    role: Role
    name: str
    created_at: float  # unix seconds
    from_file: bool = False


def digest_of(key: str) -> str:
    """What is stored instead of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def make_key_files(secrets_dir: Path) -> None:
    """Create `admin.key` and `user.key` where missing: mode 0600, complete or not there at all."""
    secrets_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    for role in Role:
        path = _key_file(secrets_dir, role)
        if path.exists():
            _warn_when_open(path)
        elif _create(path, f"sk-{secrets.token_urlsafe(_KEY_BYTES)}\n"):
            logger.info("key created", extra={"role": role.value})


def read_key_files(secrets_dir: Path) -> dict[str, ApiKey]:
    """The keys of the files, by their hash; a missing or empty file gives none."""
    found = {}
    for role in Role:
        path = _key_file(secrets_dir, role)
        try:
            key, created_at = path.read_text().strip(), path.stat().st_mtime
        except FileNotFoundError:
            continue
        if key:
            digest = digest_of(key)
            found[digest] = ApiKey(
                id=f"key_{digest[:12]}",
                hash=digest,
                role=role,
                name=role.value,
                created_at=created_at,
                from_file=True,
            )
    return found


class KeyStore:
    """The hashes in Redis. The files' keys are put there, and back there, by whoever looks."""

    def __init__(self, client: redis.asyncio.Redis, secrets_dir: Path) -> None:
        self._redis = client
        self._secrets_dir = secrets_dir
        self._file_keys: dict[str, ApiKey] = {}

    async def open(self) -> None:
        """Make the key files where missing, read them, and tell Redis when it is there."""
        await asyncio.to_thread(make_key_files, self._secrets_dir)
        self._file_keys = await asyncio.to_thread(read_key_files, self._secrets_dir)
        try:
            await self._register_file_keys()
        except RedisError as error:
            # `find` does it later.
            logger.warning("keys not registered yet", extra={"reason": type(error).__name__})

    async def find(self, digest: str) -> ApiKey | None:
        """The key of this hash. Without Redis the files still answer; RedisError when they cannot."""
        of_file = self._file_keys.get(digest)
        try:
            raw = await self._redis.hget(redis_keys.API_KEYS, digest)
            if raw is None and of_file is not None:
                await self._register_file_keys()
        except RedisError:
            if of_file is None:
                raise
            return of_file
        return of_file if raw is None else msgspec.json.decode(raw, type=ApiKey)

    async def _register_file_keys(self) -> None:
        """Make Redis' record of the files' keys equal the files."""
        known: dict[Any, Any] = await self._redis.hgetall(redis_keys.API_KEYS)
        stale = [digest for digest in _from_files(known) if digest not in self._file_keys]
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
    """Answers of the store a worker may repeat for a while, good and bad ones. Bounded."""

    def __init__(self, *, seconds: float, max_entries: int = 4096) -> None:
        self._seconds = seconds
        self._max_entries = max_entries
        self._entries: dict[str, tuple[float, ApiKey | None]] = {}

    def get(self, digest: str) -> tuple[bool, ApiKey | None]:
        """Whether the answer is known, and the answer."""
        expires_at, key = self._entries.get(digest, (0.0, None))
        return expires_at > time.monotonic(), key

    def put(self, digest: str, key: ApiKey | None) -> None:
        """Remember an answer; a key nobody knows for a fraction of the time only."""
        if len(self._entries) >= self._max_entries:
            # Whoever fills the cache with made-up keys costs the others one look-up each.
            self._entries.clear()
        seconds = self._seconds if key is not None else self._seconds / 10
        self._entries[digest] = (time.monotonic() + seconds, key)


def _key_file(secrets_dir: Path, role: Role) -> Path:
    return secrets_dir / f"{role.value}.key"


def _create(path: Path, text: str) -> bool:
    """Whether we were the one who made it; a reader never sees half a key."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        # link, not rename: two starters at once must agree on one key.
        path.hardlink_to(draft)
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    return True


def _warn_when_open(path: Path) -> None:
    if path.stat().st_mode & _READABLE_BY_OTHERS:
        logger.warning("key file is readable by others; chmod 600 it", extra={"file": path.name})


def _from_files(known: dict[str, str]) -> Iterable[str]:
    for digest, raw in known.items():
        if msgspec.json.decode(raw, type=ApiKey).from_file:
            yield digest
