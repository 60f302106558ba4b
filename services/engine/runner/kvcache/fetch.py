"""Read and open entries on threads of their own, ahead of the batcher that takes their states."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from services.engine.core import CacheTier
from services.engine.kv_entry import EntryHeader
from services.engine.runner.kvcache.lookup import Entry
from services.engine.runner.kvcache.priority import yield_to_computation
from services.engine.runner.kvcache.sealing import FrameSealer

logger = logging.getLogger(__name__)

_MAX_PREFETCHED = 4096  # entries that wait; more are not prefetched
_READ_AHEAD_BYTES = 12 << 20  # of one fetch; an entry that is larger is read alone


@dataclass(frozen=True, slots=True, eq=False)
class StoredState:
    """What was saved of the tokens [start, end)."""

    start: int
    end: int
    state: bytes | memoryview
    tier: CacheTier
    seconds: float  # that the computation of the tokens took


class Fetch:
    """States on their way from the store, in the order of their tokens. One thread uses it."""

    def __init__(self, entries: Sequence[Entry], changed: threading.Condition) -> None:
        self._entries = entries
        self._changed = changed  # guards everything below; notified at each change
        self._ready: dict[int, StoredState] = {}
        self._ready_bytes = 0
        self._read = 0  # entries that a reader has begun
        self._taken = 0
        self._end = len(entries)  # entries that can be taken: fewer after a failure

    @property
    def is_over(self) -> bool:
        """Whether `take` will return nothing more."""
        return self._taken >= self._end

    @property
    def is_failed(self) -> bool:
        """Whether a state is missing, or the fetch was closed: those before it can be taken."""
        return self._end < len(self._entries)

    def take(self) -> StoredState | None:
        """The next state; None while it is not ready, and when the fetch is over."""
        with self._changed:
            state = self._ready.pop(self._taken, None)
            if state is not None:
                self._taken += 1
                self._ready_bytes -= len(state.state)
                self._changed.notify_all()
            return state

    def take_ready(self, max_bytes: int) -> Iterator[StoredState]:
        """The states that are ready, until about `max_bytes` were taken."""
        taken = 0
        while taken < max_bytes and (state := self.take()) is not None:
            taken += len(state.state)
            yield state

    def wait(self, seconds: float) -> None:
        """Wait until `take` returns a state, or the fetch is over; at most so long."""
        with self._changed:
            self._changed.wait_for(lambda: self._taken in self._ready or self.is_over, seconds)

    def close(self) -> None:
        """Read no more; forget what was read. Safe to call twice."""
        with self._changed:
            self._stop_at(self._taken)

    def next_to_read(self) -> tuple[int, Entry] | None:
        """For a reader that holds the condition: the next entry, if it is to be read now."""
        if self._read >= self._end or self._ready_bytes >= _READ_AHEAD_BYTES:
            return None
        self._read += 1
        return self._read - 1, self._entries[self._read - 1]

    def put(self, place: int, state: StoredState | None) -> None:
        """For a reader: the state of an entry, or None where it could not be read."""
        with self._changed:
            if state is None:
                self._stop_at(place)
            elif place < self._end:
                self._ready[place] = state
                self._ready_bytes += len(state.state)
            self._changed.notify_all()

    @property
    def is_read(self) -> bool:
        """For a reader that holds the condition: whether all entries were begun."""
        return self._read >= self._end

    def _stop_at(self, end: int) -> None:
        self._end = min(self._end, end)
        for place in [place for place in self._ready if place >= self._end]:
            self._ready_bytes -= len(self._ready.pop(place).state)
        self._changed.notify_all()


class ReaderPool:
    """The threads that read entries. They serve the fetches in turn, and prefetch between them."""

    def __init__(
        self,
        threads: int,
        on_read: Callable[[Entry, EntryHeader], None],
        prefetch: Callable[[Entry], None],
    ) -> None:
        """`prefetch` brings an entry into RAM, on a thread of the pool."""
        self._on_read = on_read
        self._prefetch = prefetch
        self._changed = threading.Condition()  # guards the three below, and the fetches
        self._fetches: deque[Fetch] = deque()
        self._prefetches: deque[Entry] = deque()
        self._is_closed = False
        self._threads = [
            threading.Thread(target=self._run, name=f"cache-reader-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def fetch(self, entries: Sequence[Entry]) -> Fetch:
        """Begin to read entries."""
        fetch = Fetch(entries, self._changed)
        with self._changed:
            if self._is_closed:
                fetch.close()
            self._fetches.append(fetch)
            self._changed.notify_all()
        return fetch

    def prefetch(self, entries: Sequence[Entry]) -> None:
        """Bring entries into RAM when there is nothing to fetch, unless too many wait."""
        with self._changed:
            if not self._is_closed and len(self._prefetches) + len(entries) <= _MAX_PREFETCHED:
                self._prefetches.extend(entries)
                self._changed.notify_all()

    def close(self, seconds: float) -> None:
        """End all fetches and the threads. Safe to call twice."""
        with self._changed:
            self._is_closed = True
            for fetch in self._fetches:
                fetch.close()
            self._fetches.clear()
            self._prefetches.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(seconds)

    def _run(self) -> None:
        yield_to_computation()
        sealer = FrameSealer()
        while (work := self._next()) is not None:
            if isinstance(work, Entry):
                self._serve_prefetch(work)
            else:
                self._serve(*work, sealer)
            del work  # else the fetch lives until there is another one

    def _serve_prefetch(self, entry: Entry) -> None:
        try:
            self._prefetch(entry)
        except Exception:  # the thread serves all later fetches too
            logger.exception("entry could not be prefetched", extra={"tier": entry.tier.tier})

    def _serve(self, fetch: Fetch, place: int, entry: Entry, sealer: FrameSealer) -> None:
        state = None
        try:
            state = self._read(entry, sealer)
        except Exception:  # the thread serves all later fetches too
            logger.exception("entry could not be read", extra={"tier": entry.tier.tier})
        fetch.put(place, state)

    def _read(self, entry: Entry, sealer: FrameSealer) -> StoredState | None:
        opened = entry.tier.read(entry.name, entry.slot, entry.key, entry.part, sealer)
        if opened is None:
            return None
        header, state = opened
        self._on_read(entry, header)
        return StoredState(entry.part.start, entry.part.end, state, entry.tier.tier, header.seconds)

    def _next(self) -> tuple[Fetch, int, Entry] | Entry | None:
        """Wait for an entry to read, or to prefetch; None after `close`."""
        with self._changed:
            while not self._is_closed:
                for _ in range(len(self._fetches)):
                    fetch = self._fetches.popleft()
                    work = fetch.next_to_read()
                    if not fetch.is_read:
                        self._fetches.append(fetch)
                    if work is not None:
                        return fetch, *work
                if self._prefetches:
                    return self._prefetches.popleft()
                self._changed.wait()
            return None
