"""Seal and write states on a thread of its own, and copy to RAM what was read on disk."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from services.engine.core import CacheEvent, CacheStored
from services.engine.kv_entry import SLOTS, EntryHeader
from services.engine.runner.kvcache.chain import Part
from services.engine.runner.kvcache.folder_tier import EntryLost, FolderTier
from services.engine.runner.kvcache.keys import DerivedKey
from services.engine.runner.kvcache.lookup import Entry
from services.engine.runner.kvcache.policy import choose_slot
from services.engine.runner.kvcache.priority import yield_to_computation
from services.engine.runner.kvcache.sealing import FrameSealer

logger = logging.getLogger(__name__)

MAX_QUEUED_BYTES = 256 << 20
_MAX_COPIES = 1024  # that wait
_MAX_KEPT = 1 << 14  # names; of more, those go that were asked for the longest time ago


@dataclass(slots=True, eq=False)
class _Save:
    key: DerivedKey
    part: Part
    state: bytes
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class _Copy:
    entry: Entry
    header: EntryHeader


class _Stopped(Exception):
    """The store is closed, and the time for what waits is over."""


class Writer:
    """What waits to be written. Any thread may add to it."""

    def __init__(
        self,
        tiers: Sequence[FolderTier],
        ram: FolderTier | None,
        model_tag: bytes,
        events: deque[CacheEvent],
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._tiers = tiers  # in the order in which they are tried
        self._ram = ram
        self._model_tag = model_tag
        self._events = events
        self._now = now
        self._sealer = FrameSealer()
        self._changed = threading.Condition()  # guards everything below
        self._saves: deque[_Save] = deque()
        self._copies: deque[_Copy] = deque()
        self._copying: set[str] = set()  # names
        self._kept: dict[str, None] = {}  # names of snapshots that no other one replaces, in order
        self._pending: set[tuple[bytes, bytes]] = set()  # key and content of saves, until written
        self._queued_bytes = 0
        self._is_closed = False
        self._stop_at = float("inf")  # on the monotonic clock
        self._thread = threading.Thread(target=self._run, name="cache-writer", daemon=True)
        self._thread.start()

    @property
    def has_room(self) -> bool:
        """Whether the states that wait are few enough bytes."""
        return self._queued_bytes < MAX_QUEUED_BYTES

    @property
    def can_write(self) -> bool:
        """Whether a tier may accept an entry."""
        return any(tier.is_writable for tier in self._tiers)

    def is_pending(self, key: DerivedKey, part: Part) -> bool:
        """Whether this part waits to be written, or is being written."""
        return (key.name_key, part.content) in self._pending

    def save(self, key: DerivedKey, part: Part, state: bytes, seconds: float) -> None:
        """Queue a state."""
        with self._changed:
            if self._is_closed or self.is_pending(key, part):
                return
            self._pending.add((key.name_key, part.content))
            self._queued_bytes += len(state)
            self._saves.append(_Save(key, part, state, seconds))
            self._changed.notify_all()

    def keep(self, names: Iterable[str]) -> None:
        """Let no other snapshot replace these, as long as they are not evicted."""
        with self._changed:
            for name in names:
                self._kept.pop(name, None)
                self._kept[name] = None
            while len(self._kept) > _MAX_KEPT:
                del self._kept[next(iter(self._kept))]

    def copy_to_ram(self, entry: Entry, header: EntryHeader) -> None:
        """Queue a copy of an entry that was read, unless it is in RAM or too many wait."""
        ram = self._ram
        if ram is None or entry.tier is ram or not ram.is_writable:
            return
        with self._changed:
            is_full = len(self._copies) >= _MAX_COPIES
            if self._is_closed or is_full or entry.name in self._copying:
                return
            self._copying.add(entry.name)
            self._copies.append(_Copy(entry, header))
            self._changed.notify_all()

    def close(self, seconds: float) -> None:
        """Write the states that wait, at most so long. Safe to call twice."""
        with self._changed:
            self._is_closed = True
            self._stop_at = min(self._stop_at, time.monotonic() + seconds)
            self._copies.clear()
            self._copying.clear()
            self._changed.notify_all()
        self._thread.join(seconds + 1)

    def _run(self) -> None:
        yield_to_computation()
        while (work := self._next()) is not None:
            try:
                if isinstance(work, _Save):
                    self._save(work)
                else:
                    self._copy(work)
            except _Stopped:
                return
            except Exception:  # the thread writes all later entries too
                logger.exception("entry could not be written")
            finally:
                self._finish(work)
            del work  # else the state lives until there is other work

    def _next(self) -> _Save | _Copy | None:
        """Wait for work, saves first; None when the store is closed and nothing is left."""
        with self._changed:
            while not (self._saves or self._copies):
                if self._is_closed:
                    return None
                self._changed.wait()
            return self._saves.popleft() if self._saves else self._copies.popleft()

    def _finish(self, work: _Save | _Copy) -> None:
        with self._changed:
            if isinstance(work, _Copy):
                self._copying.discard(work.entry.name)
            else:
                self._pending.discard((work.key.name_key, work.part.content))
                self._queued_bytes -= len(work.state)
            self._changed.notify_all()

    def _save(self, save: _Save) -> None:
        for tier in self._tiers:
            if not tier.is_writable:
                continue
            slot = self._choose_slot(tier, save.key, save.part)
            if slot is None:
                return
            name = save.key.build_name(save.part.kind, save.part.node, slot)
            header = self._build_header(save, slot)
            frames = self._sealer.seal(header, save.key, save.part.binding, save.state)
            if tier.write(name, header.file_bytes, self._until_stopped(frames)):
                with self._changed:
                    self._kept.pop(name, None)  # it was that of a snapshot that is gone
                self._report(name, tier, header, save.part.start)
                return

    def _choose_slot(self, tier: FolderTier, key: DerivedKey, part: Part) -> int | None:
        """The slot to write; None where the part is stored, perhaps by another process."""
        if part.kind == "block":
            return None if tier.has(key.build_name("block", part.node, 0)) else 0
        names = [key.build_name("snapshot", part.node, slot) for slot in range(SLOTS)]
        headers = [tier.peek(name) for name in names]
        # What is read in RAM is used there only.
        last_uses = [max(each.read_last_use(name) for each in self._tiers) for name in names]
        with self._changed:
            kept = [slot for slot, name in enumerate(names) if name in self._kept]
        tail_tag = key.build_tail_tag(part.content)
        return choose_slot(headers, last_uses, tail_tag, kept=kept, now=self._now())

    def _build_header(self, save: _Save, slot: int) -> EntryHeader:
        part = save.part
        is_snapshot = part.kind == "snapshot"
        return EntryHeader(
            kind=part.kind,
            slot=slot,
            tokens=part.tokens,
            key_id=save.key.id,
            salt=os.urandom(16),
            model_tag=self._model_tag,
            payload_bytes=len(save.state),
            created=max(int(self._now()), 0),
            seconds=save.seconds,
            tail_tag=save.key.build_tail_tag(part.content) if is_snapshot else bytes(16),
        )

    def _copy(self, copy: _Copy) -> None:
        """Copy the sealed bytes. What is wrong with them is seen when they are read."""
        ram, entry, header = self._ram, copy.entry, copy.header
        if ram is None or ram.has(entry.name) or not ram.is_writable:
            return
        chunks = self._until_stopped(entry.tier.read_chunks(entry.name))
        with suppress(EntryLost):  # evicted meanwhile
            if ram.write(entry.name, header.file_bytes, chunks):
                self._report(entry.name, ram, header, entry.part.start)

    def _report(self, name: str, tier: FolderTier, header: EntryHeader, start: int) -> None:
        stored = CacheStored(
            name,
            header.key_id,
            tier.tier,
            header.kind,
            header.file_bytes,
            header.tokens,
            header.seconds,
            start,
        )
        self._events.append(stored)

    def _until_stopped(self, chunks: Iterable[memoryview | bytes]) -> Iterator[memoryview | bytes]:
        for chunk in chunks:
            if time.monotonic() > self._stop_at:
                raise _Stopped
            yield chunk
