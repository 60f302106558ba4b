"""Divides what one worker has among its principals, so that none of them can take all of it."""

from __future__ import annotations

from collections import Counter


class SharedBudget:
    """A principal may hold `share` times what it leaves to the others. Event loop only.

    With a share of 1, the first may take half of all, the next a third of the rest, and so on: while
    few flood, one that comes later still finds something.
    """

    def __init__(self, total: int, *, share: int = 1) -> None:
        self._free = total
        self._share = share
        self._held: Counter[str] = Counter()  # by principal

    def take(self, principal: str, count: int) -> bool:
        """Take so many, or none where that would be too many; whether they were taken."""
        if self._held[principal] + count > self._share * (self._free - count):
            return False
        self._move(principal, count)
        return True

    def give_back(self, principal: str, count: int) -> None:
        """Give back what was taken."""
        self._move(principal, -count)

    def _move(self, principal: str, count: int) -> None:
        self._free -= count
        self._held[principal] += count
        if not self._held[principal]:
            del self._held[principal]
