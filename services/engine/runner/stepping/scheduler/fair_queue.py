"""Whose turn it is: lanes with ageing, and inside a lane deficit round robin between principals.

    lane 0   ring: alice ─► bob ─► carol      each with a queue of branches and a deficit in tokens
    lane 1   ring: ...

A principal at the head of the ring is served while its deficit covers the next branch's cost;
otherwise it gets a quantum more and goes to the end. So what counts is tokens, not requests.
Source: Shreedhar and Varghese 1995, "Efficient Fair Queueing using Deficit Round Robin".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from services.engine.core import Lane
from services.engine.runner.stepping.scheduler.request import Branch

_QUANTUM = 1024  # tokens
_ANSWER_COST = 256  # tokens; what an answer costs is not known before
_AGEING_SECONDS = 10.0  # of waiting lift a branch by one lane


@dataclass(slots=True, eq=False)
class _Turn:
    """One principal's waiting branches in one lane."""

    principal: str
    branches: deque[Branch] = field(default_factory=deque)
    deficit: int = 0


class FairQueue:
    """The waiting branches."""

    def __init__(self) -> None:
        self._rings: dict[Lane, deque[_Turn]] = {lane: deque() for lane in Lane}
        self._has_changed = False
        self._told: dict[int, int] = {}  # request id -> its place, as last told

    def __len__(self) -> int:
        return sum(len(turn.branches) for ring in self._rings.values() for turn in ring)

    def add(self, branch: Branch) -> None:
        """Wait behind the others of the same principal."""
        self._turn_of(branch).branches.append(branch)
        self._has_changed = True

    def put_back(self, branch: Branch) -> None:
        """Wait before the others of the same principal: it had its turn and lost it."""
        self._turn_of(branch).branches.appendleft(branch)
        self._has_changed = True

    def remove(self, branch: Branch) -> None:
        """Take a branch out of any place; one that does not wait is fine."""
        ring = self._rings[branch.request.lane]
        for turn in ring:
            if turn.principal == branch.request.principal and branch in turn.branches:
                turn.branches.remove(branch)
                self._has_changed = True
                if not turn.branches:
                    ring.remove(turn)
                return

    def peek(self, now: float) -> Branch | None:
        """The branch whose turn it is; the same one until it is taken or a better lane fills."""
        ring = self._next_ring(now)
        if ring is None:
            return None
        while (turn := ring[0]).deficit < _cost(turn.branches[0]):
            turn.deficit += _QUANTUM
            ring.rotate(-1)
        return turn.branches[0]

    def heads(self) -> Iterator[Branch]:
        """The next branch of every principal, better lanes first."""
        return (turn.branches[0] for ring in self._rings.values() for turn in ring)

    def take(self, branch: Branch) -> None:
        """Serve a head: the one `peek` gave, or another that has a better claim."""
        ring = self._rings[branch.request.lane]
        turn = self._turn_of(branch)
        assert turn.branches[0] is branch
        turn.deficit -= _cost(branch)
        branch.is_charged = True
        turn.branches.popleft()
        self._has_changed = True
        if not turn.branches:
            ring.remove(turn)  # an idle principal saves nothing up

    def changed_positions(self) -> list[tuple[int, int]]:
        """(request id, place) of requests that never ran and whose place is another now; 1 is next."""
        if not self._has_changed:
            return []
        self._has_changed = False
        places: dict[int, int] = {}
        for branch in self:
            if branch.cached_tokens is None and branch.request.id not in places:
                places[branch.request.id] = len(places) + 1
        changed = [item for item in places.items() if self._told.get(item[0]) != item[1]]
        self._told = places
        return changed

    def __iter__(self) -> Iterator[Branch]:
        """All waiting branches, about in the order they will be served."""
        for ring in self._rings.values():
            queues = [iter(turn.branches) for turn in ring]
            while queues:
                still = []
                for queue in queues:
                    if (branch := next(queue, None)) is not None:
                        still.append(queue)
                        yield branch
                queues = still

    def _turn_of(self, branch: Branch) -> _Turn:
        ring = self._rings[branch.request.lane]
        for turn in ring:
            if turn.principal == branch.request.principal:
                return turn
        turn = _Turn(branch.request.principal)
        ring.append(turn)
        return turn

    def _next_ring(self, now: float) -> deque[_Turn] | None:
        """The ring of the best lane, after the lift for its longest wait."""
        best: tuple[int, deque[_Turn]] | None = None
        for lane, ring in self._rings.items():
            if not ring:
                continue
            oldest = min(turn.branches[0].request.arrived for turn in ring)
            lifted = lane - int((now - oldest) / _AGEING_SECONDS)
            if best is None or lifted < best[0]:
                best = lifted, ring
        return None if best is None else best[1]


def _cost(branch: Branch) -> int:
    """Tokens, before it is known what the cache saves; a preempted branch paid already."""
    return 0 if branch.is_charged else len(branch.tokens) + _ANSWER_COST
