"""Queue what is kept of prompts and answers for the store.

The caches are those of PrefixCache, which alone keeps them alive: what it drops before its turn
is not stored.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Sequence
from functools import partial
from typing import Any

from services.engine.backends.mlx.cache_states import save_block, save_whole
from services.engine.backends.mlx.library import MlxLibrary
from services.engine.runner.kvcache.chain import Chain
from services.engine.runner.kvcache.save_queue import SaveJob, SaveQueue
from services.engine.runner.kvcache.store import PromptStore

logger = logging.getLogger(__name__)

_MIN_TOKENS = 64  # shorter sequences are computed as fast
_Cache = weakref.ref[Any]  # of one layer


class CacheSaver:
    """What waits to be saved."""

    def __init__(self, library: MlxLibrary, store: PromptStore) -> None:
        self._library = library
        self._store = store
        self._jobs = SaveQueue(store)

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
            if not self._store.saves_whole:
                # Several answers to one prompt are one use of it: its chain remembers that.
                self._store.wants(chain, chain.length)
            prompt_length, chain = chain.length, chain.copy()
            chain.extend(tokens[prompt_length:])
        layers = [weakref.ref(cache) for cache in caches]
        is_kept = partial(_are_kept, layers)
        self._jobs.add(SaveJob(chain, length, is_kept, partial(self._copy, layers)))

    def save(self, max_bytes: int, token_seconds: float) -> int:
        """See SaveQueue.save."""
        return self._jobs.save(max_bytes, token_seconds)

    def _copy(self, layers: Sequence[_Cache], start: int, end: int) -> bytes | None:
        caches = [layer() for layer in layers]
        try:
            if self._store.saves_whole:
                return save_whole(self._library, caches)
            return save_block(self._library, caches, start, end)
        except Exception:  # of MLX, without a common class
            logger.exception("a state was not saved")
            return None


def _are_kept(layers: Sequence[_Cache]) -> bool:
    return all(layer() is not None for layer in layers)
