"""Build caches from the states that were fetched from the store, some bytes in each step."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from services.engine.backends.mlx.cache_states import Block, join_blocks, load_block, load_whole
from services.engine.backends.mlx.library import MlxLibrary
from services.engine.core import CacheTier
from services.engine.runner.kvcache.fetch import Fetch, StoredState
from services.engine.runner.mlx.generated_answer import GeneratedAnswer
from services.engine.runner.stepping.scheduler.request import Branch

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Restoring:
    """An answer that waits for its states, and the caches that it begins with.

    Blocks continue the first `start` tokens of the caches; another state takes their place.
    """

    answer: GeneratedAnswer
    fetch: Fetch
    caches: list[Any]
    length: int  # tokens in the caches
    start: int  # 0 but for blocks
    blocks: list[Block] = field(default_factory=list)
    stored_tokens: int = 0
    disk_tokens: int = 0  # of those
    tier: CacheTier | None = None
    saved_seconds: float = 0.0


class CacheRestorer:
    """The answers that wait for the store. A fetch that fails ends early; the rest is computed."""

    def __init__(
        self, library: MlxLibrary, make_caches: Callable[[], list[Any]], *, saves_whole: bool
    ) -> None:
        """`saves_whole`: whether states are those of whole sequences, not of blocks."""
        self._library = library
        self._make_caches = make_caches
        self._saves_whole = saves_whole
        self._waiting: list[Restoring] = []

    @property
    def answers(self) -> list[GeneratedAnswer]:
        """Those that wait."""
        return [restoring.answer for restoring in self._waiting]

    def add(self, restoring: Restoring) -> None:
        """Let an answer wait for its fetch."""
        self._waiting.append(restoring)

    def remove(self, branch: Branch) -> None:
        """Forget an answer. One that does not wait is fine."""
        for restoring in [each for each in self._waiting if each.answer.branch is branch]:
            restoring.fetch.close()
            self._waiting.remove(restoring)

    def clear(self) -> None:
        """Forget all answers."""
        for restoring in self._waiting:
            restoring.fetch.close()
        self._waiting.clear()

    def wait(self, seconds: float) -> None:
        """Wait for the next state of the first answer; at most so long."""
        for restoring in self._waiting[:1]:
            restoring.fetch.wait(seconds)

    def restore(self, max_bytes: int) -> tuple[list[Restoring], int]:
        """Load the states that are ready, until about `max_bytes` are copied.

        Returns the answers that have all of theirs, which are to be removed, and the bytes copied.
        """
        copied, done = 0, []
        for restoring in self._waiting:
            while copied < max_bytes:
                is_over = restoring.fetch.is_over  # before `take`: the last may come between
                stored = restoring.fetch.take()
                if stored is not None:
                    copied += len(stored.state)
                    self._load(restoring, stored)
                elif is_over:
                    self._finish(restoring)
                    done.append(restoring)
                    break
                else:
                    break
        return done, copied

    def _load(self, restoring: Restoring, stored: StoredState) -> None:
        try:
            if self._saves_whole:
                restoring.caches = load_whole(self._library, self._make_caches(), stored.state)
                restoring.length = stored.end
            else:
                restoring.blocks.append(load_block(self._library, stored.state))
        except Exception:  # of MLX, without a common class
            logger.exception("a stored state was not loaded")
            restoring.fetch.close()
            return
        restoring.stored_tokens += stored.end - stored.start
        restoring.disk_tokens += stored.end - stored.start if stored.tier == "disk" else 0
        restoring.tier = "disk" if "disk" in (restoring.tier, stored.tier) else stored.tier
        restoring.saved_seconds += stored.seconds

    def _finish(self, restoring: Restoring) -> None:
        """Join the blocks, and note on the branch what came from the store."""
        if restoring.blocks:
            try:
                restoring.caches = join_blocks(
                    self._library, restoring.caches, restoring.start, restoring.blocks
                )
            except Exception:
                logger.exception("stored states were not loaded")
                return
            restoring.length = restoring.start + restoring.stored_tokens
        branch = restoring.answer.branch
        if branch.cached_tokens is None:
            branch.stored_tokens = restoring.stored_tokens
            branch.disk_tokens = restoring.disk_tokens
            branch.tier, branch.saved_seconds = restoring.tier, restoring.saved_seconds
