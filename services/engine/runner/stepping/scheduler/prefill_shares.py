"""Whose prompt is computed next, in slices: fair between lanes and principals, short prompts first.

A step's budget is dealt out a slice at a time, each to the principal who was served least for the
weight of the lane (start-time fair queueing). Whole slices, because a step over a few tokens of
many prompts costs a processor a fifth more than one over a stretch of one prompt, and gives all of
them their first token late. A principal's slice goes to the prompt with least left, but of every
four tokens one to the oldest: a short question does not wait for a long document, nor the document
for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from services.engine.core import Lane
from services.engine.runner.stepping.scheduler.request import Branch

SLICE_TOKENS = 64
_LANE_WEIGHTS = {Lane.INTERACTIVE: 16, Lane.BACKGROUND: 4, Lane.BATCH: 1}
_PASSED_TOKENS = 3 * SLICE_TOKENS  # the oldest prompt lets so many pass it, then has a slice

_Party = tuple[Lane, str]  # who shares: a lane's principal


@dataclass(slots=True)
class _Account:
    """What a party was given."""

    level: float  # tokens over the lane's weight
    passed: float = 0.0  # tokens for others than its oldest prompt, since that had its slice


class Slices:
    """Deals prompt tokens out; remembers who had how many."""

    def __init__(self) -> None:
        self._accounts: dict[_Party, _Account] = {}

    def deal(self, wants: Mapping[Branch, int], budget: int) -> list[tuple[Branch, int]]:
        """So many tokens of each prompt, `budget` in all; none more than it wants."""
        parties: dict[_Party, list[Branch]] = {}
        for branch in wants:
            request = branch.request
            parties.setdefault((request.lane, request.principal), []).append(branch)
        self._open_accounts(parties)
        left = dict(wants)
        dealt: dict[Branch, int] = {}
        while budget > 0 and parties:
            party = min(parties, key=lambda party: self._accounts[party].level)
            account, waiting = self._accounts[party], parties[party]
            oldest = min(waiting, key=lambda branch: branch.age)
            branch = oldest
            if account.passed < _PASSED_TOKENS:
                branch = min(waiting, key=lambda b: (b.pending - dealt.get(b, 0), b.age))
            count = min(SLICE_TOKENS, left[branch], budget)
            account.level += count / _LANE_WEIGHTS[party[0]]
            account.passed += count if branch is not oldest else -min(account.passed, 3.0 * count)
            dealt[branch] = dealt.get(branch, 0) + count
            budget -= count
            left[branch] -= count
            if not left[branch]:
                waiting.remove(branch)
                if not waiting:
                    del parties[party]
        return list(dealt.items())

    def _open_accounts(self, parties: dict[_Party, list[Branch]]) -> None:
        """Newcomers begin level with whoever was served least; who left ahead of that stays ahead."""
        known = [self._accounts[party].level for party in parties if party in self._accounts]
        floor = min(known, default=0.0)
        self._accounts = {
            party: account
            for party, account in self._accounts.items()
            if known and (party in parties or account.level > floor)
        }
        for party in parties:
            self._accounts.setdefault(party, _Account(floor))
