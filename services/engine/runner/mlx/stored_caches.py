"""The part of the store in a batch: what it has of new prompts, and gets of computed ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from services.engine.backends.mlx.library import MlxLibrary
from services.engine.runner.kvcache.chain import BLOCK_TOKENS
from services.engine.runner.kvcache.fetch import Fetch
from services.engine.runner.kvcache.store import MAX_COPIED_ALONE, MAX_COPIED_BYTES, PromptStore
from services.engine.runner.mlx.cache_restorer import CacheRestorer, Restoring
from services.engine.runner.mlx.cache_saver import CacheSaver
from services.engine.runner.mlx.generated_answer import GeneratedAnswer
from services.engine.runner.stepping.prompt_finder import PromptFinder
from services.engine.runner.stepping.scheduler.request import Branch

_WAIT_SECONDS = 0.002


class StoredCaches:
    """Without a store nothing is found, nothing waits, and nothing is saved."""

    def __init__(
        self,
        library: MlxLibrary,
        store: PromptStore | None,
        make_caches: Callable[[], list[Any]],
        *,
        saves_whole: bool,
    ) -> None:
        """`saves_whole`: whether caches can be stored as a whole only, not in blocks."""
        self._make_caches = make_caches
        self._saves_whole = saves_whole
        self._finder = PromptFinder(store) if store else None
        self._saver = CacheSaver(library, store) if store else None
        self._restorer = CacheRestorer(library, make_caches, saves_whole=saves_whole)

    @property
    def answers(self) -> list[GeneratedAnswer]:
        """The answers that wait for their fetch."""
        return self._restorer.answers

    @property
    def pending(self) -> int:
        """Number of sequences that wait to be saved."""
        return self._saver.pending if self._saver is not None else 0

    def fetch(
        self, answer: GeneratedAnswer, caches: list[Any] | None, length: int, *, saved: int
    ) -> bool:
        """Fetch what is stored behind the first `length` tokens of an answer, which `caches` hold.

        False where that does not pay, as `saved` tokens need not be computed anyway.
        """
        branch = answer.branch
        if self._finder is None:
            return False
        begin = self._finder.find(branch, computed=length, saved=saved)
        if begin is None:
            return False
        start = 0 if self._saves_whole else length // BLOCK_TOKENS * BLOCK_TOKENS
        fetch = begin(start)
        assert isinstance(fetch, Fetch)
        self._restorer.add(Restoring(answer, fetch, caches or self._make_caches(), length, start))
        return True

    def restore(self, *, is_alone: bool) -> tuple[list[Restoring], int]:
        """See CacheRestorer.restore. `is_alone`: nothing else is computed."""
        return self._restorer.restore(MAX_COPIED_ALONE if is_alone else MAX_COPIED_BYTES)

    def remove(self, branch: Branch) -> None:
        """Forget an answer. One that does not wait is fine."""
        self._restorer.remove(branch)

    def clear(self) -> None:
        """Forget all answers that wait."""
        self._restorer.clear()

    def queue(self, branch: Branch, tokens: Sequence[int], caches: Sequence[Any]) -> None:
        """Queue the caches of these tokens of an answer for the store."""
        if self._saver is not None and branch.request.chain is not None:
            self._saver.queue(branch.request.chain, tokens, caches)

    def save(self, copied: int, token_seconds: float, *, is_alone: bool) -> int:
        """Save what waits, in a step that has copied so much; returns the bytes that it copies.

        `token_seconds`: the time that computing a token takes.
        """
        if self._saver is None:
            return 0
        most = MAX_COPIED_ALONE if is_alone else MAX_COPIED_BYTES
        return self._saver.save(most - copied, token_seconds)

    def wait(self) -> None:
        """Wait a moment for the store; call this where there is nothing else to do."""
        if self._restorer.answers:
            self._restorer.wait(_WAIT_SECONDS)
        elif self.pending:
            time.sleep(_WAIT_SECONDS)
