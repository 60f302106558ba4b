"""Build caches from the states that were fetched from the store, some bytes in each step."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from services.engine.backends.mlx.cache_states import Block, join_blocks, load_block, load_whole
from services.engine.backends.mlx.library import MlxLibrary
from services.engine.runner.kvcache.chain import BLOCK_TOKENS
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
        _forget_stored(restoring.answer.branch)  # it may have been preempted while it fetched
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
            for stored in restoring.fetch.take_ready(max_bytes - copied):
                copied += len(stored.state)
                self._load(restoring, stored)
            if restoring.fetch.is_over:
                self._join(restoring)
                done.append(restoring)
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
        branch = restoring.answer.branch
        branch.record_stored(stored.end - stored.start, stored.tier, stored.seconds)

    def _join(self, restoring: Restoring) -> None:
        """Let the blocks continue the caches, or forget them."""
        if not restoring.blocks:
            return
        try:
            restoring.caches = join_blocks(
                self._library, restoring.caches, restoring.start, restoring.blocks
            )
        except Exception:  # of MLX, without a common class
            logger.exception("stored states were not loaded")
            _forget_stored(restoring.answer.branch)
        else:
            restoring.length = restoring.start + len(restoring.blocks) * BLOCK_TOKENS


def _forget_stored(branch: Branch) -> None:
    """What was loaded is not used; what it began with before a preemption stays counted."""
    if branch.cached_tokens is None:
        branch.forget_cached()
