"""Who gets a sequence: the running branches, and how the next one in the queue joins them.

A branch that is admitted begins with the longest computed prefix there is. If a running branch is
about to compute more of the same tokens, the new one waits for it (it follows) instead of computing
them a second time: so a prompt that many send at once is computed once, and `n` answers share theirs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from services.engine.runner.stepping.kv.prefix_tree import BLOCK, PrefixTree
from services.engine.runner.stepping.kv.sequence_pool import Match, Sequences
from services.engine.runner.stepping.scheduler.fair_queue import FairQueue
from services.engine.runner.stepping.scheduler.request import Branch, Following

_HEADROOM = 16  # cells a running branch should be able to take before anyone must make room


@dataclass(slots=True)
class _Way:
    """How a branch would begin."""

    match: Match | None
    follows: Following | None

    @property
    def spared(self) -> int:
        """Tokens it need not compute."""
        if self.follows is not None:
            return self.follows.until
        return self.match.length if self.match is not None else 0


class Admission:
    """The running branches. Owns who holds a sequence; the scheduler owns everything else."""

    def __init__(self, sequences: Sequences, queue: FairQueue, *, most_running: int) -> None:
        self.running: list[Branch] = []
        self.preemptions = 0
        self._sequences = sequences
        self._queue = queue
        self._most_running = most_running
        self._admissions = 0
        self._leaders: dict[int, Branch] = {}  # by admission; those with prompt left to compute
        self._coming = PrefixTree(self._slice_of)  # what the leaders are going to compute

    def admit(self, now: float) -> list[Branch]:
        """Fill the places from the queue; those that run for the first time.

        When the one whose turn it is finds no place, one with a claim to another's gets it.
        """
        started = []
        while (turn := self._queue.peek(now)) is not None:
            branch = next((b for b in self._candidates(turn) if self._make_way(b)), None)
            if branch is None:
                break
            self._queue.take(branch)
            if self._enter(branch):
                started.append(branch)
        return started

    def resolve(self) -> None:
        """Let followers go whose leader is as far as they wait for, or gone."""
        for branch in self.running:
            if branch.follows is not None and not self._must_wait(branch.follows):
                branch.follows = None
                self._begin(branch, self._way(branch))

    def note_progress(self, branch: Branch) -> None:
        """Called after each step: a branch that read its prompt has nothing left to lead with."""
        if branch.pending <= 1:
            self._stop_leading(branch)

    def release(self, branch: Branch, *, is_trusted: bool = True) -> None:
        """Take a branch out of the running; what it computed stays for others if it is sound."""
        self.running.remove(branch)
        self._stop_leading(branch)
        branch.follows = None
        branch.cuts.clear()
        if branch.held is not None:
            if is_trusted:
                self._sequences.keep(branch.held)
            else:
                self._sequences.drop(branch.held)
            branch.held = None

    def preempt(self, branch: Branch) -> None:
        """Send a branch back to the queue with all its tokens."""
        self.preemptions += 1
        self.release(branch)
        self._queue.put_back(branch)

    def _candidates(self, turn: Branch) -> Iterator[Branch]:
        """Whose turn it is, if a place is free; then heads that may have a claim to one.

        Cheap on purpose: it is asked at every step while anyone waits.
        """
        places = Counter(other.request.principal for other in self.running)
        most = max(places.values(), default=0)
        worst = max((other.request.lane for other in self.running), default=None)
        if len(self.running) < self._most_running:
            yield turn
        for head in self._queue.heads():
            is_short = places[head.request.principal] + 1 < most
            if is_short or (worst is not None and head.request.lane < worst):
                yield head

    def _make_way(self, branch: Branch) -> bool:
        """Preempt whoever must yield to a branch, if then it has place and room; or nobody."""
        way = self._way(branch)
        staying = list(self.running)
        while not self._fits(branch, way, staying):
            victim = _who_yields(branch, staying)
            if victim is None:
                return False
            staying.remove(victim)
        for other in [other for other in self.running if other not in staying]:
            self.preempt(other)
        return True

    def _fits(self, branch: Branch, way: _Way, staying: Sequence[Branch]) -> bool:
        """Whether its tokens fit beside what those hold and are about to take."""
        if not staying:
            return True
        if len(staying) >= self._most_running:
            return False
        busy = [other.held for other in staying if other.held is not None]
        leads = way.follows is not None and way.follows.leader in staying
        is_shared = leads or (way.match is not None and way.match.source in busy)
        need = len(branch.tokens) - (way.spared if is_shared else 0)
        outstanding = sum(
            other.pending - (other.follows.until if other.follows is not None else 0) + _HEADROOM
            for other in staying
        )
        cells = self._sequences.cells
        return need + outstanding + cells.held_by(held.leaf for held in busy) <= cells.capacity

    def _enter(self, branch: Branch) -> bool:
        """Run a branch; True if it never ran before."""
        self._admissions += 1
        branch.admitted = self._admissions
        self.running.append(branch)
        way = self._way(branch)
        is_new = branch.cached_tokens is None
        if is_new:
            branch.cached_tokens = way.spared
        self._begin(branch, way)
        if branch.request.is_public and branch.pending > 1:
            self._leaders[branch.admitted] = branch
            self._coming.enter(branch.admitted, branch.tokens, len(branch.tokens))
        return is_new

    def _begin(self, branch: Branch, way: _Way) -> None:
        if way.follows is not None:
            branch.follows = way.follows
            if self._sequences.is_recurrent:
                way.follows.leader.cuts.add(way.follows.until)
            return
        branch.held = self._sequences.lend(
            branch.tokens,
            way.match,
            is_public=branch.request.is_public,
            principal=branch.request.principal,
        )

    def _way(self, branch: Branch) -> _Way:
        if not branch.request.is_public or branch.request.wants_prompt_logits:
            return _Way(None, None)
        match = self._sequences.find(branch.tokens)
        return _Way(match, self._to_follow(branch, match.length if match is not None else 0))

    def _to_follow(self, branch: Branch, computed: int) -> Following | None:
        """A branch admitted before that will compute clearly more of these tokens."""
        before = branch.admitted or self._admissions + 1

        def may_lead(admitted: int) -> bool:
            leader = self._leaders[admitted]
            return admitted < before and leader is not branch

        found = self._coming.find(branch.tokens, may_lead)
        if found is None:
            return None
        leader = self._leaders[found[0]]
        until = min(found[1], len(branch.tokens) - 1)
        if until < computed + BLOCK or leader.computed >= until:
            return None
        return Following(leader, leader.admitted, until)

    def _must_wait(self, following: Following) -> bool:
        leader = following.leader
        return following.admitted in self._leaders and leader.computed < following.until

    def _stop_leading(self, branch: Branch) -> None:
        if self._leaders.get(branch.admitted) is branch:
            del self._leaders[branch.admitted]
            self._coming.remove(branch.admitted)

    def _slice_of(self, holder: int, start: int, end: int) -> Sequence[int]:
        return self._leaders[holder].tokens[start:end]


def _who_yields(branch: Branch, running: Sequence[Branch]) -> Branch | None:
    """Who gives up a place for a branch: one of a worse lane, or of a principal with more places.

    A place changes hands only while that makes shares more even, so it cannot swing back.
    """
    places = Counter(other.request.principal for other in running)
    mine = places[branch.request.principal]

    def yields(other: Branch) -> bool:
        if other.request.lane != branch.request.lane:
            return other.request.lane > branch.request.lane
        return places[other.request.principal] > mine + 1

    return max(
        (other for other in running if yields(other)),
        key=lambda other: (other.request.lane, places[other.request.principal], other.age),
        default=None,
    )
