"""Pins what the named prefixes need, in the tier that lasts: the disk, or RAM where it is alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from services.engine.front.cache_index.prefix_files import (
    NamedPrefix,
    PrefixFiles,
    PrefixPrompt,
)
from services.engine.front.cache_index.tier_manager import TierManager
from services.shared.errors import CacheShareExceeded, Conflict

MAX_PREFIXES = 64  # of a tenant
_MAX_SHARE = 0.5  # of the tier, pinned by all tenants together


class PinnedPrefixes:
    """See the module. Event loop only; every method may raise OSError."""

    def __init__(self, files: PrefixFiles, tier: TierManager, *, tenant_share: float) -> None:
        """`tenant_share`: the part of the tier's budget that one tenant may pin."""
        self.files = files
        self._tier = tier
        self._tenant_share = tenant_share
        self._lock = asyncio.Lock()  # held from a check until what it allows is done

    def check_count(self, tenant: str, name: str) -> None:
        """Conflict where a tenant has too many prefixes for another one."""
        names = {prefix.name for prefix in self.files.list(tenant)}
        if len(names | {name}) > MAX_PREFIXES:
            raise Conflict(f"there are {MAX_PREFIXES} named prefixes already; delete one first")

    async def pin(
        self,
        prefix: NamedPrefix,
        prompt: PrefixPrompt,
        *,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Add or replace a prefix, and pin its entries. Conflict, CacheShareExceeded.

        `check` is called after the last wait, and raises where the prefix must not be kept.
        """
        async with self._lock:
            self.check_count(prefix.tenant, prefix.name)
            await self._check_share(prefix)
            check()
            await self._put(prefix, prompt)

    async def update(self, old: NamedPrefix, new: NamedPrefix, prompt: PrefixPrompt) -> None:
        """Pin what is stored of a prefix now, unless it was deleted or replaced meanwhile.

        CacheShareExceeded.
        """
        async with self._lock:
            await self._check_share(new)
            # After the last wait: the keys of its tenant may be destroyed at any time.
            if self.files.get(old.tenant, old.name) == old:
                await self._put(new, prompt)

    async def unpin(self, prefix: NamedPrefix) -> None:
        """Remove a prefix. Its entries stay until they are evicted."""
        async with self._lock:
            self.files.remove(prefix)
            await self._tier.update_pins(set(prefix.entries))

    async def measure(self, prefix: NamedPrefix) -> int:
        """The bytes of its entries that are stored now."""
        return await self._measure([prefix])

    async def _put(self, prefix: NamedPrefix, prompt: PrefixPrompt) -> None:
        before = self.files.get(prefix.tenant, prefix.name)
        self.files.put(prefix, prompt)
        unpinned = before.entries if before is not None else ()
        await self._tier.update_pins({*prefix.entries, *unpinned})

    async def _check_share(self, added: NamedPrefix) -> None:
        others = [
            prefix
            for prefix in self.files.list()
            if (prefix.tenant, prefix.name) != (added.tenant, added.name)
        ]
        own = [prefix for prefix in others if prefix.tenant == added.tenant]
        for prefixes, share in ((own, self._tenant_share), (others, _MAX_SHARE)):
            size = await self._measure([*prefixes, added])
            limit = int(self._tier.budget_bytes * share)
            if size > limit:
                raise CacheShareExceeded(
                    f"with this prefix, {size} bytes would be pinned, of at most {limit}"
                )

    async def _measure(self, prefixes: Iterable[NamedPrefix]) -> int:
        names = {entry for prefix in prefixes for entry in prefix.entries}
        return await asyncio.to_thread(self._tier.folder.measure, names)
