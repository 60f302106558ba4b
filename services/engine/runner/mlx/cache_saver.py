"""Copy what is kept of prompts and answers out of MLX for the store, some bytes in each step.

The caches are those of PrefixCache, which alone keeps them alive: what it drops before its turn
is not stored.
"""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from services.engine.backends.mlx.cache_states import save_block, save_whole
from services.engine.backends.mlx.library import MlxLibrary
from services.engine.runner.kvcache.chain import Chain
from services.engine.runner.kvcache.store import PromptStore

logger = logging.getLogger(__name__)

_MAX_JOBS = 64  # the oldest is left out beyond that
_MIN_TOKENS = 64  # shorter sequences are computed as fast


@dataclass(slots=True, eq=False)
class _Job:
    """The caches of the first `length` tokens of a chain, of which the store may want parts."""

    chain: Chain
    length: int
    caches: list[weakref.ref[Any]]  # of the layers
    parts: deque[tuple[int, int]] | None = None


class CacheSaver:
    """What waits to be saved. Nothing is copied while the store has no room."""

    def __init__(self, library: MlxLibrary, store: PromptStore, *, saves_whole: bool) -> None:
        """`saves_whole`: whether states are those of whole sequences, not of blocks."""
        self._library = library
        self._store = store
        self._saves_whole = saves_whole
        self._jobs: deque[_Job] = deque()

    @property
    def pending(self) -> int:
        """Number of sequences that wait."""
        return len(self._jobs)

    def queue(self, chain: Chain, tokens: Sequence[int], caches: Sequence[Any]) -> None:
        """Queue the caches of these tokens: a part of the chain's prompt, or more than all of it."""
        length = len(tokens)
        if length < _MIN_TOKENS:
            return
        if length > chain.length:
            if not self._saves_whole:
                # Several answers to one prompt are one use of it: its chain remembers that.
                self._store.wants(chain, chain.length)
            prompt_length, chain = chain.length, chain.copy()
            chain.extend(tokens[prompt_length:])
        self._jobs.append(_Job(chain, length, [weakref.ref(cache) for cache in caches]))
        if len(self._jobs) > _MAX_JOBS:
            self._jobs.popleft()

    def save(self, max_bytes: int, token_seconds: float) -> int:
        """Give the store what it wants, until about `max_bytes` are copied; returns how many.

        `token_seconds`: the time that computing a token takes.
        """
        copied = 0
        while self._jobs and copied < max_bytes and self._store.has_room():
            job = self._jobs[0]
            caches = [cache() for cache in job.caches]
            part = None if None in caches else self._next_part(job)
            state = self._copy(caches, *part) if part is not None else None
            if part is None or state is None:
                self._jobs.popleft()
                continue
            copied += len(state)
            start, end = part
            self._store.save(job.chain, start, end, state, token_seconds * (end - start))
        return copied

    def _next_part(self, job: _Job) -> tuple[int, int] | None:
        """The next part of the sequence to copy; None where the job is over."""
        if job.parts is None:
            job.parts = deque(self._store.wants(job.chain, job.length))
        return job.parts.popleft() if job.parts else None

    def _copy(self, caches: Sequence[Any], start: int, end: int) -> bytes | None:
        try:
            if self._saves_whole:
                return save_whole(self._library, caches)
            return save_block(self._library, caches, start, end)
        except Exception:  # of MLX, without a common class
            logger.exception("a state was not saved")
            return None
