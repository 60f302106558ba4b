"""The index of the stored prompts in Redis: what each entry weighs, and which one goes next.

    spindll:kv:{tier}:entries          hash: name of the entry -> IndexedEntry as JSON
    spindll:kv:{tier}:rank:{tenant}    sorted set: name of the entry -> its priority
    spindll:kv:{tier}:bytes            hash: tag of the tenant -> bytes
    spindll:kv:{tier}:floor            the priority of the last entry that was evicted
    spindll:kv:{tier}:complete         set when the index is known to name every file

`tier` is the random id of a tier's folder, so that a new folder has a new, empty index. Names are
keyed hashes: Redis reveals nothing about prompts, and cannot confirm a guess.

The priority of an entry is `floor + seconds saved per MiB`, renewed at each use (greedy-dual-size);
of equal ones, the one that was used last is higher. Of one chain that was used at one time, the
last blocks have the least value, so that its beginning stays of use. The priority of a pinned entry
is infinite. What saves much time stays long, and what is not used falls behind as the floor rises.
Finding the next one takes O(tenants), recording a use O(log n).

Files are the truth, and no answer depends on the index. A lost index is rebuilt from the files.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence

import msgspec
import redis.asyncio
from redis.asyncio.client import Pipeline

from services.engine.core import CacheKind
from services.shared.redis import redis_keys
from services.shared.structs import resolved

INDEX_SECONDS = 90 * 24 * 3600  # the index of a folder that is gone is forgotten after that
_AT_ONCE = 500  # entries of one answer
_MIB = 1 << 20
_HALF_VALUE = 1 << 14  # tokens before a block that halve its value
_RECENCY = 1e-9  # per second: decides between equal values only


@resolved
class IndexedEntry(msgspec.Struct, frozen=True, array_like=True):
    """What the index knows of an entry."""

    name: str
    tenant: str  # tag
    kind: CacheKind
    size_bytes: int
    tokens: int
    seconds: float  # that using it saves
    created: int  # seconds since 1970
    start: int = 0  # tokens before it, whose blocks it needs; 0 where only its file is known

    @property
    def value(self) -> float:
        """Seconds saved per MiB; less for a block far behind in its chain, which fewer need."""
        return self.seconds * _MIB / max(self.size_bytes, 1) / (1 + self.start / _HALF_VALUE)


class CacheIndex:
    """The index of one tier. Every method may raise redis.RedisError."""

    def __init__(
        self,
        connection: redis.asyncio.Redis,
        tier_id: str,
        read_pinned: Callable[[], Collection[str]] = frozenset,
    ) -> None:
        """`read_pinned`: the names of the entries that are evicted after all others."""
        self._redis = connection
        self.read_pinned = read_pinned
        self._prefix = f"{tier_id}:"

    async def is_complete(self) -> bool:
        """Whether it names every file of the folder."""
        return bool(await self._redis.exists(self._key("complete")))

    async def set_complete(self) -> None:
        """Record that all files were added."""
        await self._redis.set(self._key("complete"), 1, ex=INDEX_SECONDS)

    async def add(self, entries: Sequence[IndexedEntry]) -> None:
        """Add entries; known ones are replaced, and of equal names the last one counts."""
        by_name = {entry.name: entry for entry in entries}
        if not by_name:
            return
        floor, pinned = await self._read_floor(), self.read_pinned()

        async def change(pipe: Pipeline) -> None:
            known = await self._get(by_name, pipe)
            tenants = {str(tenant) for tenant in await pipe.hkeys(self._key("bytes"))}
            pipe.multi()  # type: ignore[no-untyped-call]
            for entry in by_name.values():
                if (old := known.get(entry.name)) is not None:
                    pipe.hincrby(self._key("bytes"), old.tenant, -old.size_bytes)
                pipe.hset(self._key("entries"), entry.name, msgspec.json.encode(entry).decode())
                priority = _prioritise(floor, entry, pinned)
                pipe.zadd(self._rank(entry.tenant), {entry.name: priority})
                pipe.hincrby(self._key("bytes"), entry.tenant, entry.size_bytes)
                tenants.add(entry.tenant)
            self._renew(pipe, tenants)  # all: one without its rank could not be evicted

        await self._change(change)

    async def touch(self, names: Collection[str]) -> None:
        """Record that entries were used, pinned or unpinned; unknown ones are ignored."""
        known = await self._get(names)
        if not known:
            return
        floor, pinned = await self._read_floor(), self.read_pinned()
        async with self._redis.pipeline() as pipe:
            for name, entry in known.items():
                priority = _prioritise(floor, entry, pinned)
                pipe.zadd(self._rank(entry.tenant), {name: priority}, xx=True)
            await pipe.execute()

    async def remove(self, names: Collection[str]) -> None:
        """Remove entries whose files are gone; unknown ones are ignored."""

        async def change(pipe: Pipeline) -> None:
            known = await self._get(names, pipe)
            pipe.multi()  # type: ignore[no-untyped-call]
            for name, entry in known.items():
                pipe.hdel(self._key("entries"), name)
                pipe.zrem(self._rank(entry.tenant), name)
                pipe.hincrby(self._key("bytes"), entry.tenant, -entry.size_bytes)

        if names:
            await self._change(change)

    async def read_bytes(self) -> dict[str, int]:
        """The bytes of each tenant, by tag."""
        found = await self._redis.hgetall(self._key("bytes"))
        return {str(tenant): int(size) for tenant, size in found.items() if int(size) > 0}

    async def count(self) -> int:
        """The number of entries."""
        return int(await self._redis.hlen(self._key("entries")))

    async def read_names(self) -> set[str]:
        """The names of all entries, read in parts: there may be very many."""
        entries = self._redis.hscan_iter(self._key("entries"), count=_AT_ONCE)
        return {str(name) async for name, _ in entries}

    async def find_victims(
        self, excess: int, tenants: Iterable[str], *, max_entries: int
    ) -> list[IndexedEntry]:
        """The entries of lowest priority, `excess` bytes of them but at most `max_entries`.

        Only those of these tenants. Raises the floor to the highest of their priorities.
        """
        candidates: list[tuple[float, str]] = []
        for tenant in tenants:
            lowest: list[tuple[str, float]] = await self._redis.zrange(
                self._rank(tenant), 0, max_entries - 1, withscores=True
            )  # type: ignore[assignment]
            candidates += [(score, name) for name, score in lowest]
        candidates.sort()
        known = await self._get([name for _, name in candidates[:max_entries]])
        victims: list[IndexedEntry] = []
        floor = 0.0
        for score, name in candidates[:max_entries]:
            if excess <= 0:
                break
            if (entry := known.get(name)) is not None:
                victims.append(entry)
                excess -= entry.size_bytes
                floor = score if math.isfinite(score) else floor
        if victims:
            await self._redis.set(
                self._key("floor"), max(floor, await self._read_floor()), ex=INDEX_SECONDS
            )
        return victims

    async def clear(self) -> None:
        """Forget all entries, and that the index was complete."""
        tenants = await self._redis.hkeys(self._key("bytes"))
        names = [self._key(name) for name in ("entries", "bytes", "complete")]
        await self._redis.delete(*names, *(self._rank(str(tenant)) for tenant in tenants))

    async def _change(self, change: Callable[[Pipeline], Awaitable[None]]) -> None:
        """Change entries as one transaction, again if another front has changed some meanwhile.

        Else both would count the same bytes.
        """
        await self._redis.transaction(change, self._key("entries"))

    async def _get(
        self, names: Collection[str], connection: redis.asyncio.Redis | None = None
    ) -> Mapping[str, IndexedEntry]:
        if not names:
            return {}
        ordered = list(dict.fromkeys(names))
        packed = await (connection or self._redis).hmget(self._key("entries"), ordered)
        return {
            str(name): msgspec.json.decode(value, type=IndexedEntry)
            for name, value in zip(ordered, packed, strict=True)
            if value is not None
        }

    async def _read_floor(self) -> float:
        return float(await self._redis.get(self._key("floor")) or 0.0)

    def _renew(self, pipe: Pipeline, tenants: Iterable[str]) -> None:
        keys = [self._key(name) for name in ("entries", "bytes", "floor", "complete")]
        for key in (*keys, *map(self._rank, tenants)):
            pipe.expire(key, INDEX_SECONDS)

    def _rank(self, tenant: str) -> str:
        return self._key(f"rank:{tenant}")

    def _key(self, name: str) -> str:
        return redis_keys.kv(self._prefix + name)


def _prioritise(floor: float, entry: IndexedEntry, pinned: Collection[str]) -> float:
    if entry.name in pinned:
        return math.inf
    return floor + entry.value + _RECENCY * time.time()
