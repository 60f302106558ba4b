"""Divide a step's prompt tokens: fair between lanes and principals, and short prompts first.

The budget of a step is dealt out in slices. Each slice goes to the flow (the principal in a lane)
that has received least for the weight of its lane; this is start-time fair queueing. Slices are not
divided: on a CPU, a step over a few tokens of many prompts takes a fifth longer than a step over
one stretch of one prompt, and it delays the first token of all of them.

Within a flow, a slice goes to the prompt with the fewest tokens left, but one of every four tokens
goes to the oldest prompt. So a short question does not wait for a long document, and the document
is not delayed forever.

A prompt that other branches wait for is computed for them too. It belongs to the best flow among
its own and theirs: an interactive request does not wait for the pace of a batch prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.engine.core import Lane
from services.engine.runner.stepping.scheduler.request import Branch

SLICE_TOKENS = 64
_LANE_WEIGHTS = {Lane.INTERACTIVE: 16, Lane.BACKGROUND: 4, Lane.BATCH: 1}
_MAX_PASSED_TOKENS = 3 * SLICE_TOKENS  # may pass the oldest prompt; then it receives a slice

_Flow = tuple[Lane, str]  # a lane and a principal


@dataclass(slots=True)
class _Account:
    """What a flow has received."""

    virtual_time: float  # tokens divided by the weight of the lane
    passed: float = 0.0  # tokens of other prompts than its oldest, since that received a slice


class PrefillShares:
    """Deals out prompt tokens, and remembers how many each flow has received."""

    def __init__(self) -> None:
        self._accounts: dict[_Flow, _Account] = {}

    def deal(
        self,
        wants: Mapping[Branch, int],
        budget: int,
        followers: Mapping[Branch, Sequence[Branch]] | None = None,
    ) -> list[tuple[Branch, int]]:
        """Divide `budget` tokens between the prompts; none receives more than it wants.

        `followers` holds, by prompt, the branches that wait for it.
        """
        flows: dict[_Flow, list[Branch]] = {}
        for branch in wants:
            flow = self._choose_flow(branch, (followers or {}).get(branch, ()))
            flows.setdefault(flow, []).append(branch)
        self._open_accounts(flows)
        left = dict(wants)
        dealt: dict[Branch, int] = {}
        while budget > 0 and flows:
            flow = min(flows, key=lambda flow: self._accounts[flow].virtual_time)
            account, waiting = self._accounts[flow], flows[flow]
            oldest = min(waiting, key=lambda branch: branch.age)
            branch = oldest
            if account.passed < _MAX_PASSED_TOKENS:
                branch = min(waiting, key=lambda b: (b.pending - dealt.get(b, 0), b.age))
            count = min(SLICE_TOKENS, left[branch], budget)
            account.virtual_time += count / _LANE_WEIGHTS[flow[0]]
            account.passed += count if branch is not oldest else -min(account.passed, 3.0 * count)
            dealt[branch] = dealt.get(branch, 0) + count
            budget -= count
            left[branch] -= count
            if not left[branch]:
                waiting.remove(branch)
                if not waiting:
                    del flows[flow]
        return list(dealt.items())

    def _choose_flow(self, branch: Branch, followers: Sequence[Branch]) -> _Flow:
        """The flow with the best lane, and among those the one that has received least."""
        flows = [(b.request.lane, b.request.principal) for b in (branch, *followers)]

        def received(flow: _Flow) -> float:
            account = self._accounts.get(flow)
            return account.virtual_time if account is not None else 0.0

        return min(flows, key=lambda flow: (flow[0], received(flow)))

    def _open_accounts(self, flows: dict[_Flow, list[Branch]]) -> None:
        """Start new flows level with the flow that has received least.

        A flow that left with more than that keeps its account, so leaving and returning gains
        nothing.
        """
        known = [self._accounts[flow].virtual_time for flow in flows if flow in self._accounts]
        floor = min(known, default=0.0)
        self._accounts = {
            flow: account
            for flow, account in self._accounts.items()
            if known and (flow in flows or account.virtual_time > floor)
        }
        for flow in flows:
            self._accounts.setdefault(flow, _Account(floor))
