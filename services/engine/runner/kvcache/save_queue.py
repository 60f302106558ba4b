"""The sequences of which the store may want parts, copied for it some bytes in each step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from services.engine.runner.kvcache.chain import Chain
from services.engine.runner.kvcache.store import PromptStore

_MAX_JOBS = 64  # the oldest is left out beyond that


@dataclass(slots=True, eq=False)
class SaveJob:
    """The first `length` tokens of a chain; what is before `start` belongs to another job."""

    chain: Chain
    length: int
    is_kept: Callable[[], bool]  # whether the batcher has them still
    copy: Callable[[int, int], bytes | None]  # the state of a part; None where that failed
    start: int = 0
    _parts: deque[tuple[int, int]] | None = field(default=None, init=False)

    def take_part(self, store: PromptStore) -> tuple[int, int] | None:
        """The next part that the store wants; None where the job is over."""
        if not self.is_kept():
            return None
        if self._parts is None:
            self._parts = deque(store.wants(self.chain, self.length, start=self.start))
        return self._parts.popleft() if self._parts else None


class SaveQueue:
    """What waits to be saved. Nothing is copied while the store has no room."""

    def __init__(self, store: PromptStore) -> None:
        self._store = store
        self._jobs: deque[SaveJob] = deque()

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: SaveJob) -> None:
        """Queue a job. The oldest one is left out where there are too many."""
        self._jobs.append(job)
        if len(self._jobs) > _MAX_JOBS:
            self._jobs.popleft()

    def save(self, max_bytes: int, token_seconds: float) -> int:
        """Give the store what it wants, until about `max_bytes` are copied; returns how many.

        `token_seconds`: the time that computing a token takes.
        """
        copied = 0
        while self._jobs and copied < max_bytes and self._store.has_room():
            job = self._jobs[0]
            part = job.take_part(self._store)
            state = job.copy(*part) if part is not None else None
            if part is None or state is None:
                self._jobs.popleft()
                continue
            copied += len(state)
            start, end = part
            self._store.save(job.chain, start, end, state, token_seconds * (end - start))
        return copied
