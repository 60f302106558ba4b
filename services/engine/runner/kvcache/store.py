"""The store of computed prompts: what a batcher finds, fetches and saves of them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from services.engine.core import CacheConfig, CacheEvent, CacheKey, CacheTier, CacheUsed
from services.engine.kv_entry import compute_model_tag
from services.engine.runner.kvcache.chain import BLOCK_TOKENS, Chain, Part
from services.engine.runner.kvcache.fetch import Fetch, ReaderPool
from services.engine.runner.kvcache.folder_tier import EntryLost, FolderTier
from services.engine.runner.kvcache.keys import DerivedKey
from services.engine.runner.kvcache.lookup import Entry, find_block, find_blocks, find_snapshot
from services.engine.runner.kvcache.policy import WritePolicy
from services.engine.runner.kvcache.writer import Writer

# Bytes of states that a batcher copies in a step for the store and from it, or one state if that is
# larger. They take 1 to 2 ms: other answers must not notice.
MAX_COPIED_BYTES = 4 << 20
MAX_COPIED_ALONE = 32 << 20  # while nothing is generated; a new request waits for a step

_READERS = 2
_MAX_EVENTS = 1 << 16  # the oldest are lost when none is taken
_IN_USE_SECONDS = 60.0  # between two reports that an entry is in use
_MAX_IN_USE = 1 << 15  # entries whose last report is remembered
_MAX_TAIL = 16  # tokens between the snapshot of a prompt and its end
_MIN_SNAPSHOT = 64  # tokens; of shorter prompts none is taken


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A stored prefix of a chain."""

    length: int  # tokens
    tier: CacheTier  # disk, if any part of it has to come from there
    entries: tuple[Entry, ...] = field(default=(), repr=False)


class PromptStore:
    """Finds, fetches and saves states of computed prompts.

    Nothing here raises an error for what is wrong with files or folders: that is a miss, and an
    event. Methods are cheap: reading, opening, sealing and writing happen on threads of its own.
    Any thread may call them, but a chain or a fetch is used by one at a time.
    """

    def __init__(self, config: CacheConfig, identity: bytes, *, saves_whole: bool) -> None:
        """`identity`: see identity.py. `saves_whole`: sequences, not blocks (`Backend.save`)."""
        self._identity = identity
        self.saves_whole = saves_whole
        self._events: deque[CacheEvent] = deque(maxlen=_MAX_EVENTS)
        self._in_use: dict[str, float] = {}  # by name: when it was last reported; engine thread
        self._lock = threading.Lock()  # guards _policy
        self._write = config.write
        self._policy = WritePolicy(config.write)
        ram = disk = None
        if config.ram_folder is not None:
            ram = FolderTier("ram", config.ram_folder, self._events, max_bytes=config.ram_max_bytes)
        if config.disk_folder is not None:
            disk = FolderTier(
                "disk", config.disk_folder, self._events, min_free_bytes=config.min_free_bytes
            )
        self._tiers = [tier for tier in (ram, disk) if tier is not None]
        model_tag = compute_model_tag(config.model_digest)
        # An entry is written to the disk, where it lasts; reading it copies it to RAM.
        self._writer = Writer(self._tiers[::-1], ram, model_tag, self._events)
        self._readers = ReaderPool(_READERS, self._writer.copy_to_ram, self._prefetch)

    def open_chain(
        self, keys: Sequence[CacheKey], tokens: Sequence[int], *, is_always_stored: bool = False
    ) -> Chain:
        """Hash a prompt. Keys: newest first; without any, nothing is found and nothing wanted.

        `is_always_stored`: at its first use too. Raises ValueError for keys of another length.
        """
        chain = Chain(self._identity, tuple(map(DerivedKey.derive, keys)), tokens)
        chain.is_always_stored = is_always_stored and self._write != "never"
        return chain

    def find(self, chain: Chain, *, start: int = 0, end: int | None = None) -> Stored | None:
        """The longest stored prefix of the chain's first `end` tokens; None: not beyond `start`.

        The blocks before `start`, which the caller has, need not be stored. A snapshot cannot be
        cut, so `end` must leave the token to compute; blocks end at multiples of 256 up to `end`.
        """
        end = chain.length if end is None else min(end, chain.length)
        if self.saves_whole:
            snapshot = find_snapshot(self._tiers, chain.keys, chain, start, end)
            entries = [] if snapshot is None else [snapshot]
        else:
            entries = find_blocks(self._tiers, chain, start, end)
        if not entries or entries[-1].part.end <= start:
            return None
        is_on_disk = any(entry.tier.tier == "disk" for entry in entries)
        return Stored(entries[-1].part.end, "disk" if is_on_disk else "ram", tuple(entries))

    def find_prefix(self, chain: Chain) -> Stored | None:
        """What is stored of a prompt for those that go on after it.

        Of snapshots, that is the one at its end and the one shortly before it: where a prompt goes
        on, its last tokens may be others.
        """
        stored = self.find(chain)
        if stored is None or not self.saves_whole or stored.length < chain.length:
            return stored
        before = self.find(
            chain, start=max(chain.length - _MAX_TAIL - 1, 0), end=max(chain.length - 1, 0)
        )
        entries = stored.entries + (before.entries if before is not None else ())
        return Stored(stored.length, stored.tier, entries)

    def count_storable(self, chain: Chain) -> int:
        """How many tokens `find_prefix` returns at least when all of the prompt is stored."""
        if not self.saves_whole:
            return chain.length // BLOCK_TOKENS * BLOCK_TOKENS
        return chain.length - _MAX_TAIL if chain.length >= _MIN_SNAPSHOT else 0

    def keep(self, stored: Stored) -> None:
        """Let no other snapshot replace what was found, while this store is open."""
        self._writer.keep(entry.name for entry in stored.entries if entry.part.kind == "snapshot")

    def prefetch(self, stored: Stored) -> None:
        """Begin to bring what was found on the disk into RAM: to its tier, or the page cache."""
        self._readers.prefetch([entry for entry in stored.entries if entry.tier.tier == "disk"])

    def fetch(self, chain: Chain, stored: Stored, start: int) -> Fetch:
        """Begin to read what was found, from token `start` on: a multiple of 256, 0 for snapshots."""
        return self._readers.fetch([entry for entry in stored.entries if entry.part.start >= start])

    def wants(self, chain: Chain, length: int, *, start: int = 0) -> list[tuple[int, int]]:
        """The parts [start, end) of the first `length` tokens that `save` should get, in order.

        Those that end at or before `start` are left out, as are stored ones, those that wait to be
        written, and those that the policy excludes. For snapshots it is [(0, length)] or nothing,
        and a stored one counts as used.
        """
        if not chain.keys or not self._writer.can_write:
            return []
        if self.saves_whole:
            parts = [chain.get_snapshot(length)] if length > start else []
        else:
            blocks = range(start // BLOCK_TOKENS, length // BLOCK_TOKENS)
            parts = [chain.get_block(index) for index in blocks]
        return [(part.start, part.end) for part in parts if self._wants(chain, part)]

    def has_room(self) -> bool:
        """Whether states may be saved now: those that wait are not too many bytes."""
        return self._writer.has_room

    def save(self, chain: Chain, start: int, end: int, state: bytes, seconds: float) -> None:
        """Store the state of a part that is wanted. `seconds`: that computing its tokens took."""
        if self.saves_whole:
            part = chain.get_snapshot(end)
        else:
            part = chain.get_block(start // BLOCK_TOKENS)
        if (part.start, part.end) != (start, end):
            raise ValueError(f"tokens {start} to {end} are no part that is stored")
        self._writer.save(chain.keys[0], part, state, seconds)

    def take_events(self) -> list[CacheEvent]:
        """What has happened since the last call."""
        return [self._events.popleft() for _ in range(len(self._events))]

    def close(self, seconds: float) -> None:
        """Write what waits, at most so long, then end the threads. Safe to call twice."""
        self._readers.close(seconds)
        self._writer.close(seconds)

    def _note_in_use(self, entry: Entry) -> None:
        """Report that an entry was needed, though its tokens were in the model's memory.

        Else the beginning of a chat that is always in memory would look unused, and be evicted
        before what continues it.
        """
        now = time.monotonic()
        if now - self._in_use.get(entry.name, -_IN_USE_SECONDS) < _IN_USE_SECONDS:
            return
        self._in_use[entry.name] = now
        if len(self._in_use) > _MAX_IN_USE:
            del self._in_use[next(iter(self._in_use))]
        self._events.append(CacheUsed(entry.name, entry.tier.tier, is_read=False))

    def _prefetch(self, entry: Entry) -> None:
        """On a thread of the readers."""
        header = entry.tier.peek(entry.name)
        if header is None:
            return
        if len(self._tiers) > 1:
            self._writer.copy_to_ram(entry, header)
            return
        with suppress(EntryLost):  # evicted meanwhile
            for _ in entry.tier.read_chunks(entry.name):
                pass

    def _wants(self, chain: Chain, part: Part) -> bool:
        """The decision of the policy is made once for a chain: it is one use of the part."""
        key = chain.keys[0]  # what an older key sealed is written again: its epoch ends
        if part.content not in chain.decisions:
            with self._lock:
                is_wanted = self._policy.wants(key.name_key, part.content)
            chain.decisions[part.content] = is_wanted or chain.is_always_stored
        if not chain.decisions[part.content] or self._writer.is_pending(key, part):
            return False
        if part.kind == "block":
            entry = find_block(self._tiers, [key], part)
            if entry is not None:
                self._note_in_use(entry)
            return entry is None
        stored = find_snapshot(self._tiers, [key], chain, part.end - 1, part.end)
        if stored is not None:
            stored.tier.mark_used(stored.name)  # at once: a fifth one replaces the oldest
            self._note_in_use(stored)
        return stored is None
