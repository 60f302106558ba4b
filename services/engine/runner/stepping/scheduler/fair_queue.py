"""Choose the next waiting branch: by rank, and within a lane by deficit round robin.

    lane 0   ring: alice ─► bob ─► carol      principals, each with a queue and a deficit in tokens
    lane 1   ring: ...

The principal at the head of the ring is served while its deficit covers the cost of its next
branch. Otherwise it receives another quantum and moves to the end of the ring. Principals in one
lane therefore get equal numbers of tokens, not of requests. Only principals whose next branch has
the best rank (its lane, raised by its waiting time) are served. Source: Shreedhar and Varghese 1995,
"Efficient Fair Queueing using Deficit Round Robin".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from services.engine.core import Lane
from services.engine.runner.stepping.scheduler.request import ASSUMED_ANSWER_TOKENS, Branch

_QUANTUM = 1024  # tokens
_REPORT_SECONDS = 1.0  # between two reports of places in the queue


@dataclass(slots=True, eq=False)
class _PrincipalQueue:
    """The branches of one principal that wait in one lane."""

    principal: str
    branches: deque[Branch] = field(default_factory=deque)
    deficit: int = 0


class FairQueue:
    """The waiting branches."""

    def __init__(self) -> None:
        self._rings: dict[Lane, deque[_PrincipalQueue]] = {lane: deque() for lane in Lane}
        self._has_changed = False
        self._has_new = False
        self._next_report = 0.0  # on the loop's clock
        self._reported: dict[int, int] = {}  # request id -> its place when last reported

    def __len__(self) -> int:
        return sum(len(queue.branches) for ring in self._rings.values() for queue in ring)

    def list_principals(self) -> Iterator[str]:
        """The principal of each branch."""
        queues = (queue for ring in self._rings.values() for queue in ring)
        return (queue.principal for queue in queues for _ in queue.branches)

    def add(self, branch: Branch) -> None:
        """Append a branch to the queue of its principal."""
        self._find_queue(branch).branches.append(branch)
        self._has_changed = self._has_new = True

    def put_back(self, branch: Branch) -> None:
        """Put a preempted branch back into its principal's queue, before those that came later."""
        branches = self._find_queue(branch).branches
        own = (branch.request.serial, branch.index)
        later = (n for n, b in enumerate(branches) if (b.request.serial, b.index) >= own)
        branches.insert(next(later, len(branches)), branch)
        self._has_changed = True

    def remove(self, branch: Branch) -> None:
        """Remove a branch from any place. One that does not wait is fine."""
        ring = self._rings[branch.request.lane]
        for queue in ring:
            if queue.principal == branch.request.principal and branch in queue.branches:
                queue.branches.remove(branch)
                self._has_changed = True
                if not queue.branches:
                    ring.remove(queue)
                return

    def peek(self, now: float) -> Branch | None:
        """The branch to serve next. A second call at the same time returns the same branch."""
        first = min(
            ((h.rank_at(now), h.request.arrived_at, h.request.lane) for h in self.heads()),
            default=None,
        )
        if first is None:
            return None
        best, _, lane = first
        ring = self._rings[lane]
        while True:
            queue = ring[0]
            if queue.branches[0].rank_at(now) == best:
                if queue.deficit >= _cost(queue.branches[0]):
                    return queue.branches[0]
                queue.deficit += _QUANTUM
            ring.rotate(-1)

    def heads(self) -> Iterator[Branch]:
        """The first branch of every principal in every lane, better lanes first."""
        return (queue.branches[0] for ring in self._rings.values() for queue in ring)

    def take(self, branch: Branch) -> None:
        """Remove a branch to run it: the one that `peek` returned, or one that may pass it."""
        ring = self._rings[branch.request.lane]
        queue = self._find_queue(branch)
        queue.deficit -= _cost(branch)
        branch.is_charged = True
        queue.branches.remove(branch)
        self._has_changed = True
        if not queue.branches:
            ring.remove(queue)  # so an idle principal saves up no deficit

    def take_changed_positions(self, now: float) -> list[tuple[int, int]]:
        """(request id, place) of requests that have not run, if their place changed; 1 is next.

        A new request gets its place at once. The places of the others change with each admission,
        and are reported once a second at most.
        """
        is_due = self._has_changed and now >= self._next_report
        if not (is_due or self._has_new):
            return []
        self._has_new = False
        if is_due:
            self._has_changed = False
            self._next_report = now + _REPORT_SECONDS
        places: dict[int, int] = {}
        for branch in self:
            if branch.cached_tokens is None and branch.request.id not in places:
                places[branch.request.id] = len(places) + 1
        if is_due:
            changed = [item for item in places.items() if self._reported.get(item[0]) != item[1]]
            self._reported = places
            return changed
        new = [item for item in places.items() if item[0] not in self._reported]
        self._reported |= dict(new)
        return new

    def __iter__(self) -> Iterator[Branch]:
        """All waiting branches, approximately in the order in which they will be served."""
        for ring in self._rings.values():
            iterators = [iter(queue.branches) for queue in ring]
            while iterators:
                still = []
                for branches in iterators:
                    if (branch := next(branches, None)) is not None:
                        still.append(branches)
                        yield branch
                iterators = still

    def _find_queue(self, branch: Branch) -> _PrincipalQueue:
        ring = self._rings[branch.request.lane]
        for queue in ring:
            if queue.principal == branch.request.principal:
                return queue
        queue = _PrincipalQueue(branch.request.principal)
        ring.append(queue)
        return queue


def _cost(branch: Branch) -> int:
    """Tokens, before the cache is considered.

    A preempted branch has already been charged. Of several answers to one prompt, only the first
    computes the prompt.
    """
    if branch.is_charged:
        return 0
    return ASSUMED_ANSWER_TOKENS + (len(branch.tokens) if branch.index == 0 else 0)
