"""Decide what is fetched from the store for a branch, and where the store gets a state of it.

A dense memory of shared cells is stored in blocks, so a fetch continues a computed prefix. Other
memories are stored as whole sequences of one length, which an empty sequence gets.
"""

from __future__ import annotations

from functools import partial

from services.engine.runner.kvcache.chain import BLOCK_TOKENS
from services.engine.runner.kvcache.store import PromptStore, Stored
from services.engine.runner.stepping.kv.pooled_sequence import Match
from services.engine.runner.stepping.scheduler.cut_selection import (
    MIN_CUT_TOKENS,
    list_cuts,
    list_cuts_ahead,
)
from services.engine.runner.stepping.scheduler.request import Branch
from services.engine.runner.stepping.scheduler.stored_prefixes import BeginFetch


class PromptFinder:
    """See StoredPrefixes; over a store."""

    def __init__(self, store: PromptStore) -> None:
        self._store = store

    def find(self, branch: Branch, *, computed: int, saved: int) -> BeginFetch | None:
        """See StoredPrefixes.find."""
        stored = self._find(branch, computed, saved)
        if stored is None or branch.request.chain is None:
            return None
        return partial(self._store.fetch, branch.request.chain, stored)

    def prefetch(self, branch: Branch, *, computed: int, saved: int) -> None:
        """See StoredPrefixes.prefetch."""
        stored = self._find(branch, computed, saved)
        if stored is not None:
            self._store.prefetch(stored)

    def _find(self, branch: Branch, computed: int, saved: int) -> Stored | None:
        chain = branch.request.chain
        if chain is None:
            return None
        end = min(chain.length, len(branch.tokens) - 1)  # the last token must be computed
        least = saved + MIN_CUT_TOKENS
        if least > end:
            return None
        start = saved if self._store.saves_whole else self._align(computed)
        stored = self._store.find(chain, start=start, end=end)
        return stored if stored is not None and stored.length >= least else None

    def cut(self, match: Match | None) -> Match | None:
        """See StoredPrefixes.cut."""
        length = self._align(match.length) if match is not None else 0
        return Match(match.source, length) if match is not None and length else None

    def find_snapshot_lengths(self, branch: Branch) -> set[int]:
        """See StoredPrefixes.find_snapshot_lengths."""
        request, chain = branch.request, branch.request.chain
        if chain is None or not self._store.saves_whole or branch.index > 0:
            return set()
        # All are asked for: the store keeps those that are, also where memory has them too.
        wanted = {length for length in list_cuts(request) if self._store.wants(chain, length)}
        return wanted.intersection(list_cuts_ahead(request, branch.computed))

    def _align(self, length: int) -> int:
        return 0 if self._store.saves_whole else length // BLOCK_TOKENS * BLOCK_TOKENS
