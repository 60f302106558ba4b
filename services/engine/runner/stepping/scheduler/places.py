"""Decide which running branch gives its place to a waiting one. Pure, over ranks and shares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from services.engine.core import Lane
from services.engine.runner.stepping.scheduler.request import Branch


def outranks(branch: Branch, other: Branch, now: float) -> bool:
    """Whether a running branch of a worse lane yields: not if it waited longer for its place."""
    return branch.request.lane < other.request.lane and branch.rank_at(now) < other.rank


def find_worst_ranks(running: Iterable[Branch]) -> dict[Lane, int]:
    """By lane, the worst rank of the running branches of worse lanes; none where there are none."""
    worst: dict[Lane, int] = {}
    for branch in running:
        for lane in Lane:
            if lane < branch.request.lane:
                worst[lane] = max(worst.get(lane, branch.rank), branch.rank)
    return worst


def outranks_any(branch: Branch, worst_ranks: Mapping[Lane, int], now: float) -> bool:
    """Whether a branch outranks at least one of the running ones that `worst_ranks` is of."""
    worst = worst_ranks.get(branch.request.lane)
    return worst is not None and branch.rank_at(now) < worst


def choose_victim(
    branch: Branch, running: Sequence[Branch], now: float, *, own_places: int
) -> Branch | None:
    """Choose who yields to a branch: one of a worse lane, or of a principal with more places.

    A place changes hands only while that makes the shares more even, so it cannot swing back.
    `own_places` are those of the branch's principal, including those that it takes from itself.
    """
    places = Counter(other.request.principal for other in running)

    def yields(other: Branch) -> bool:
        if other.request.lane != branch.request.lane:
            return outranks(branch, other, now)
        return places[other.request.principal] > own_places + 1

    return max(
        (other for other in running if yields(other)),
        key=lambda other: (other.rank, places[other.request.principal], other.age),
        default=None,
    )
