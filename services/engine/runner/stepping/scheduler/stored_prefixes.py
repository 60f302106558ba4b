"""What admission asks of the store of computed prompts; PromptFinder answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from services.engine.runner.stepping.kv.pooled_sequence import Match
from services.engine.runner.stepping.scheduler.request import Branch, StateFetch

BeginFetch = Callable[[int], StateFetch]  # fetches what was found, from this token on


class StoredPrefixes(Protocol):
    """What the store has of waiting prompts, and wants of running ones."""

    def find(self, branch: Branch, *, computed: int, saved: int) -> BeginFetch | None:
        """Find what is stored behind the first `computed` tokens, which are in memory.

        None where it does not pay: `saved` tokens need not be computed anyway.
        """

    def prefetch(self, branch: Branch, *, computed: int, saved: int) -> None:
        """Bring into RAM what `find` would return: this branch waits, and its turn is next."""

    def cut(self, match: Match | None) -> Match | None:
        """The part of a computed prefix that a fetch can continue."""

    def find_snapshot_lengths(self, branch: Branch) -> set[int]:
        """The lengths of the prompt that are to be computed and at which the store wants the state."""
