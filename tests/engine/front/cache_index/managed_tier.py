"""A tier over real files and a real Redis, with its manager."""

from __future__ import annotations

from pathlib import Path

import redis
import redis.asyncio

from services.engine.core import CacheStored, CacheUsed
from services.engine.front.cache_index.index import CacheIndex
from services.engine.front.cache_index.tier_folder import TierFolder
from services.engine.front.cache_index.tier_manager import TierManager
from services.shared.redis.redis_client import connect_async
from tests.engine.front.cache_index.stored_files import list_names, store_entry

ALICE, BOB = b"a" * 16, b"b" * 16
TAGS = {ALICE: "alice", BOB: "bob"}
ENTRY_BYTES = 100 + 1000 + 16  # header, payload, tag


class Tier:
    """A folder with its manager; `restart` is a new front over the same folder and Redis."""

    def __init__(self, path: Path, redis_url: str, *, entries: int, per_tenant: int) -> None:
        self.path = path
        self._url = redis_url
        self._sizes = {
            "budget_bytes": entries * ENTRY_BYTES,
            "tenant_bytes": per_tenant * ENTRY_BYTES,
        }
        self.tags = dict(TAGS)
        self.pinned: set[str] = set()
        self.connections: list[redis.asyncio.Redis] = []
        self.restart()

    def restart(self, url: str | None = None) -> None:
        folder = TierFolder(self.path, "disk")
        connection = connect_async(url or self._url, timeout_seconds=1)
        self.connections.append(connection)
        self.manager = TierManager(
            folder,
            CacheIndex(connection, folder.id, lambda: self.pinned),
            self.tags.get,
            **self._sizes,
        )

    async def store(self, key_id: bytes = ALICE, *, seconds: float = 1.0, start: int = 0) -> str:
        """What a runner does: write an entry and report it."""
        name = store_entry(self.path, key_id, seconds=seconds)
        self.manager.note(
            CacheStored(name, key_id, "disk", "block", ENTRY_BYTES, 256, seconds, start)
        )
        await self.manager.update()
        return name

    async def use(self, name: str) -> None:
        self.manager.note(CacheUsed(name, "disk", ENTRY_BYTES, 0.25))
        await self.manager.update()

    @property
    def names(self) -> set[str]:
        return list_names(self.path)

    async def close(self) -> None:
        for connection in self.connections:
            await connection.aclose()
