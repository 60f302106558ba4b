"""The front's part in the prompt cache: keys for requests, budgets, deletion.

    request ─► open_realm ─► the realm and the keys that its runner gets
    runner  ─► CacheReport ─► note ─► (once a second) the index of the tier

Event loop only.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

import redis.asyncio

from services.engine.core import CacheConfig, CacheEvent, CacheKey, CacheUsed, CacheWrite
from services.engine.front.cache_index.keyring import Keyring
from services.engine.front.cache_index.pinned_prefixes import PinnedPrefixes
from services.engine.front.cache_index.tier_folder import FoundEntry
from services.engine.front.cache_index.tier_manager import TierManager, TierStatus
from services.engine.kv_entry import compute_model_tag
from services.shared.errors import Conflict

logger = logging.getLogger(__name__)

MAX_OVER_BUDGET = 1.25  # times the budget of the RAM tier: what runners fill before it is evicted
_FLUSH_SECONDS = 1.0
_SWEEP_SECONDS = 600.0


class PromptCache:
    """See the module. Without tiers nothing is stored, and realms are the tenants."""

    def __init__(
        self,
        keyring: Keyring | None = None,
        tiers: Sequence[TierManager] = (),
        connection: redis.asyncio.Redis | None = None,
        *,
        write: CacheWrite = "always",
        min_free_bytes: int = 0,
        prefixes: PinnedPrefixes | None = None,
    ) -> None:
        """`connection`: that of the tiers' indexes; it is closed with the cache.

        `write` and `min_free_bytes` are for the runners, see CacheConfig.
        """
        self.prefixes = prefixes
        self._keyring = keyring
        self._tiers = {tier.folder.tier: tier for tier in tiers}
        self._connection = connection
        self.write = write
        self._min_free_bytes = min_free_bytes
        self._stopped = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_written(self) -> bool:
        """Whether runners store what they compute."""
        return bool(self._tiers) and self.write != "never"

    def start(self) -> None:
        """Begin to keep the indexes and budgets."""
        if self._tiers:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="prompt cache")

    async def close(self) -> None:
        """Stop, with the last events in the index."""
        self._stopped.set()
        if self._task is not None:
            await self._task
            self._task = None
        if self._connection is not None:
            await self._connection.aclose()

    def build_config(self, model_digest: str) -> CacheConfig | None:
        """What a runner of this model needs to store prompts; None where none are stored."""
        if not self._tiers:
            return None
        ram = self._tiers.get("ram")
        folders = {name: str(tier.folder.path) for name, tier in self._tiers.items()}
        return CacheConfig(
            model_digest=model_digest,
            disk_folder=folders.get("disk"),
            ram_folder=folders.get("ram"),
            ram_max_bytes=int(ram.budget_bytes * MAX_OVER_BUDGET) if ram is not None else None,
            write=self.write,
            min_free_bytes=self._min_free_bytes,
        )

    def open_realm(self, tenant: str, private_key: bytes = b"") -> tuple[str, tuple[CacheKey, ...]]:
        """The realm of a tenant's request, and the keys of what it stores.

        The realm changes with the keys, so that what a runner still has in memory is as unreachable
        as what was sealed with keys that are destroyed.
        """
        realm = tenant
        keys: tuple[CacheKey, ...] = ()
        if self._keyring is not None:
            try:
                keys = self._keyring.get(tenant, private_key)
            except OSError as error:
                logger.warning("no keys for stored prompts", extra={"reason": error.strerror})
        if keys:
            realm += f"/{keys[0].id.hex()}"
        if private_key:
            realm += f"/{hashlib.sha256(private_key).hexdigest()}"
        return realm, keys

    def check_keys(self, keys: Sequence[CacheKey]) -> None:
        """Conflict where the keys of `open_realm` were destroyed; rotated ones are kept a while."""
        if keys and (self._keyring is None or self._keyring.find_key(keys[0].id) is None):
            raise Conflict("what is stored of this tenant was deleted meanwhile")

    def note(self, events: Sequence[CacheEvent]) -> None:
        """Take what a runner reports. What is used in one tier is in use in the others too."""
        for event in events:
            for name, tier in self._tiers.items():
                if name == event.tier or isinstance(event, CacheUsed):
                    tier.note(event)

    async def read_status(self) -> list[TierStatus]:
        """What each tier holds."""
        return list(await asyncio.gather(*(tier.read_status() for tier in self._tiers.values())))

    def tag(self, tenant: str) -> str:
        """The name of a tenant in `TierStatus.tenants`."""
        return self._keyring.tag(tenant) if self._keyring is not None else ""

    async def delete(
        self,
        *,
        tenant: str | None = None,
        model_digest: str | None = None,
        older_than_seconds: float | None = None,
    ) -> tuple[int, int]:
        """Delete what matches all that is given; how many entries, and their bytes.

        Where only a tenant is given, or nothing, the keys are destroyed first, so that copies of
        the entries, and what runners have in memory, are unreadable too; named prefixes go as well.
        """
        keyring = self._keyring
        if keyring is None:
            return 0, 0
        tag = None if tenant is None else keyring.tag(tenant)
        model = None if model_digest is None else compute_model_tag(model_digest)
        before = None if older_than_seconds is None else time.time() - older_than_seconds
        destroyed: set[bytes] = set()
        if model is None and before is None:
            if tenant is None:
                keyring.forget_all()
            else:
                destroyed = {key.id for key in keyring.get(tenant)}
                keyring.forget(tenant)
            if self.prefixes is not None:
                self.prefixes.files.remove_unreadable()

        def matches(entry: FoundEntry) -> bool:
            id_ = entry.header.key_id
            if tag is not None and id_ not in destroyed and keyring.find_tag(id_) != tag:
                return False
            if model is not None and entry.header.model_tag != model:
                return False
            return before is None or entry.used_at < before

        deleted = await asyncio.gather(*(tier.delete(matches) for tier in self._tiers.values()))
        return sum(count for count, _ in deleted), sum(size for _, size in deleted)

    def rotate_keys(self, tenant: str | None) -> None:
        """Seal new entries of a tenant, or of all, with new keys; older ones stay readable."""
        if self._keyring is None:
            return
        if tenant is None:
            self._keyring.rotate_all()
        else:
            self._keyring.rotate(tenant)
        if self.prefixes is not None:
            self.prefixes.files.seal_again()

    async def _run(self) -> None:
        swept_at = -float("inf")
        while True:
            is_last = self._stopped.is_set()
            await self._for_each_tier(TierManager.update)
            if is_last:
                return
            if time.monotonic() - swept_at >= _SWEEP_SECONDS:
                swept_at = time.monotonic()
                await self._for_each_tier(TierManager.sweep)
                self._sweep_drafts()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), _FLUSH_SECONDS)

    def _sweep_drafts(self) -> None:
        """Remove what killed writers left of keys and named prefixes."""
        with contextlib.suppress(OSError):  # the next sweep may succeed
            if self._keyring is not None:
                self._keyring.sweep()
            if self.prefixes is not None:
                self.prefixes.files.sweep()

    async def _for_each_tier(self, action: Callable[[TierManager], Awaitable[None]]) -> None:
        for tier in self._tiers.values():
            try:
                await action(tier)
            except OSError as error:
                logger.warning("stored prompts not counted", extra={"reason": error.strerror})
            except Exception:
                logger.exception("tier not updated", extra={"tier": tier.folder.tier})
