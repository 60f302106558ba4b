"""Manage one tier: record in the index what runners report, and evict what is over the budget.

The index is rebuilt from the files where it is not complete: at the first start, after Redis lost
it or did not answer, or when too much was reported at once. Every ten minutes the names in both are
compared. Without Redis the budget is kept from the files alone: the folder is listed every minute,
and what was unused longest is evicted.

Event loop only; files are touched in threads.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from redis.exceptions import RedisError

from services.engine.core import (
    CacheEvent,
    CacheNotWritten,
    CacheRejected,
    CacheStored,
    CacheTier,
    CacheUsed,
)
from services.engine.front.cache_index.index import CacheIndex, IndexedEntry
from services.engine.front.cache_index.tier_counts import TierCounts
from services.engine.front.cache_index.tier_folder import FoundEntry, TierFolder

logger = logging.getLogger(__name__)

_LIST_SECONDS = 60.0  # between two listings while Redis does not answer
_MAX_NOTED = 20_000  # events that wait for the index
_AT_ONCE = 256  # entries of one command
_SLACK = 0.05  # of the limit: freed beyond what is needed, so that not each entry evicts one

FindTag = Callable[[bytes], str | None]  # the tenant of a key id; None where it has none


@dataclass(frozen=True, slots=True, kw_only=True)
class TierStatus:
    """What a person sees of a tier. `tenants`: bytes by tag."""

    tier: CacheTier
    budget_bytes: int
    bytes: int
    entries: int
    counts: TierCounts
    tenants: Mapping[str, int]


class TierManager:
    """See the module."""

    def __init__(
        self,
        folder: TierFolder,
        index: CacheIndex,
        find_tag: FindTag,
        *,
        budget_bytes: int,
        tenant_bytes: int,
    ) -> None:
        """`tenant_bytes`: what one tenant may hold of the budget."""
        self.folder = folder
        self._index = index
        self._find_tag = find_tag
        self.budget_bytes = budget_bytes
        self._tenant_bytes = tenant_bytes
        self._noted: list[CacheStored | CacheUsed | CacheRejected] = []
        self._is_index_current = False  # every event since the last rebuild is in the index
        self._listed_at = -float("inf")
        self._counts = TierCounts()

    def note(self, event: CacheEvent) -> None:
        """Take an event of this tier, or a use in another one, which has a copy."""
        if isinstance(event, CacheNotWritten) and self._counts.not_written != event.reason:
            extra = {"tier": self.folder.tier, "reason": event.reason}
            logger.warning("prompts are not stored", extra=extra)
        elif isinstance(event, CacheRejected):
            logger.warning("stored prompt rejected", extra={"reason": event.reason})
        if event.tier == self.folder.tier:
            self._counts.add(event)
        if isinstance(event, CacheNotWritten):
            return
        if len(self._noted) < _MAX_NOTED:
            self._noted.append(event)
        else:
            self._is_index_current = False

    async def update_pins(self, names: Collection[str]) -> None:
        """These entries have been pinned or unpinned."""
        try:
            await self._index.touch(names)
        except RedisError:
            self._is_index_current = False

    async def update(self) -> None:
        """Bring the index up to date and evict. Raises OSError where the folder is gone."""
        noted, self._noted = self._noted, []
        rejected = _find_worthless(noted)
        if rejected:
            await asyncio.to_thread(self.folder.delete, rejected)
        try:
            is_begun = not self._is_index_current or (noted and not await self._index.is_complete())
            if is_begun:
                await self._complete_index()
            await self._record(noted, rejected)
            if noted or is_begun:  # the budget may be smaller than it was before
                await self._evict()
        except RedisError as error:
            if self._is_index_current:
                logger.warning("no index of stored prompts", extra={"reason": str(error)})
            self._is_index_current = False
            await self._evict_by_files()

    async def sweep(self) -> None:
        """Remove what killed writers left, and bring the index and the files together again.

        A runner or a front that was killed did not report the last entries that it wrote.
        """
        await asyncio.to_thread(self.folder.sweep)
        try:
            indexed = await self._index.read_names() if self._is_index_current else None
            if indexed is not None:  # read first: what is stored meanwhile will be reported
                present = await asyncio.to_thread(lambda: set(self.folder.list_names()))
                await self._index.remove(indexed - present)
                await self._add_files(await self._list(present - indexed))
                await self._evict()
        except RedisError:
            self._is_index_current = False

    async def delete(self, matches: Callable[[FoundEntry], bool]) -> tuple[int, int]:
        """Delete the entries that match; how many, and their bytes."""
        entries = await self._list()
        chosen = [entry for entry in entries if matches(entry)]
        names = [entry.name for entry in chosen]
        await asyncio.to_thread(self.folder.delete, names)
        try:
            await self._index.remove(names)
        except RedisError:
            self._is_index_current = False
        return len(chosen), sum(entry.header.file_bytes for entry in chosen)

    async def read_status(self) -> TierStatus:
        """What it holds; zero bytes while Redis does not answer."""
        tenants: Mapping[str, int] = {}
        entries = 0
        try:
            tenants, entries = await self._index.read_bytes(), await self._index.count()
        except RedisError:
            logger.debug("no index of stored prompts", exc_info=True)
        return TierStatus(
            tier=self.folder.tier,
            budget_bytes=self.budget_bytes,
            bytes=sum(tenants.values()),
            entries=entries,
            counts=dataclasses.replace(self._counts, rejected=self._counts.rejected.copy()),
            tenants=tenants,
        )

    async def _complete_index(self) -> None:
        """An index that an earlier front completed is taken as it is."""
        is_first = self._listed_at == -float("inf")
        if not (is_first and await self._index.is_complete()):
            await self._rebuild()
        self._listed_at = 0.0
        self._is_index_current = True

    async def _record(
        self,
        noted: Sequence[CacheStored | CacheUsed | CacheRejected],
        rejected: Collection[str],
    ) -> None:
        entries, orphans = [], set(rejected)
        for event in noted:
            if isinstance(event, CacheStored) and event.name not in rejected:
                tag = self._find_tag(event.key_id)
                if tag is None:  # its tenant was deleted meanwhile
                    orphans.add(event.name)
                else:
                    entries.append(_index_event(event, tag))
        await self._index.add(entries)
        used = [event for event in noted if isinstance(event, CacheUsed)]
        await self._index.touch({event.name for event in used})
        unmarked = {e.name for e in used if not e.is_read or e.tier != self.folder.tier}
        await asyncio.to_thread(self.folder.mark_used, unmarked)
        await self._remove(orphans)

    async def _evict(self) -> None:
        """Evict what tenants hold above their share, then what all hold above the budget."""
        while True:
            sizes = await self._index.read_bytes()
            greedy = next((t for t, size in sizes.items() if size > self._tenant_bytes), None)
            if greedy is not None:
                limit, tenants = self._tenant_bytes, [greedy]
            else:
                limit, tenants = self.budget_bytes, list(sizes)
            excess = sum(sizes[tenant] for tenant in tenants) - limit
            if excess <= 0:
                return
            excess += int(limit * _SLACK)
            victims = await self._index.find_victims(excess, tenants, max_entries=_AT_ONCE)
            if not victims:  # the sums are not those of the entries any more
                await self._rebuild()
                return
            await self._remove([victim.name for victim in victims])

    async def _evict_by_files(self) -> None:
        if time.monotonic() - self._listed_at < _LIST_SECONDS:
            return
        self._listed_at = time.monotonic()
        entries = await self._list()
        excess = sum(entry.header.file_bytes for entry in entries) - self.budget_bytes
        victims, pinned = [], self._index.read_pinned()
        for entry in sorted(entries, key=lambda entry: (entry.name in pinned, entry.used_at)):
            if excess <= 0:
                break
            victims.append(entry.name)
            excess -= entry.header.file_bytes
        await asyncio.to_thread(self.folder.delete, victims)

    async def _rebuild(self) -> None:
        """Make the index name exactly the files; entries of no tenant are deleted."""
        entries = await self._list()
        await self._index.clear()
        await self._add_files(entries)
        await self._index.set_complete()
        logger.info("stored prompts indexed", extra={"entries": len(entries)})

    async def _add_files(self, entries: Sequence[FoundEntry]) -> None:
        """Add entries to the index by their headers; those of no tenant are deleted."""
        found = [(entry, self._find_tag(entry.header.key_id)) for entry in entries]
        indexed = [_index_file(entry, tag) for entry, tag in found if tag is not None]
        for start in range(0, len(indexed), _AT_ONCE):
            await self._index.add(indexed[start : start + _AT_ONCE])
        orphans = [entry.name for entry, tag in found if tag is None]
        await asyncio.to_thread(self.folder.delete, orphans)

    async def _remove(self, names: Collection[str]) -> None:
        if names:
            await asyncio.to_thread(self.folder.delete, names)
            await self._index.remove(names)

    async def _list(self, names: Collection[str] | None = None) -> list[FoundEntry]:
        return await asyncio.to_thread(lambda: list(self.folder.list_entries(names)))


def _find_worthless(events: Iterable[CacheEvent]) -> set[str]:
    """The entries to delete, by the last word on each.

    What could not be read may be the fault of the system.
    """
    worthless: set[str] = set()
    for event in events:
        if isinstance(event, CacheRejected) and event.reason != "unreadable":
            worthless.add(event.name)
        elif isinstance(event, CacheStored):
            worthless.discard(event.name)
    return worthless


def _index_event(event: CacheStored, tag: str) -> IndexedEntry:
    about = (event.kind, event.size_bytes, event.tokens, event.seconds)
    return IndexedEntry(event.name, tag, *about, int(time.time()), event.start)


def _index_file(entry: FoundEntry, tag: str) -> IndexedEntry:
    header = entry.header
    return IndexedEntry(
        entry.name,
        tag,
        header.kind,
        header.file_bytes,
        header.tokens,
        header.seconds,
        header.created,
    )
