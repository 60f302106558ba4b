"""Admit waiting branches: decide which branches run, and where each one begins.

An admitted branch begins with the longest computed prefix. If a running branch is about to compute
more of the same tokens, the new one waits for it (it follows that leader) instead of computing them
a second time. So a prompt that many clients send at once is computed once, and `n` answers share
their prompt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from services.engine.runner.stepping.kv.prefix_tree import BLOCK, PrefixTree
from services.engine.runner.stepping.kv.sequence_pool import Match, SequencePool
from services.engine.runner.stepping.scheduler.fair_queue import FairQueue
from services.engine.runner.stepping.scheduler.request import Branch, Following

_HEADROOM = 16  # cells that each running branch can still take before one must make room


@dataclass(slots=True)
class _Prefix:
    """Where a branch begins: after a computed prefix, or after one that its leader computes."""

    match: Match | None
    following: Following | None

    @property
    def saved_tokens(self) -> int:
        """Tokens that the branch need not compute."""
        if self.following is not None:
            return self.following.until
        return self.match.length if self.match is not None else 0


class AdmissionControl:
    """The running branches. Owns which branch holds a sequence; the scheduler owns the rest."""

    def __init__(
        self, sequence_pool: SequencePool, queue: FairQueue, *, max_sequences: int
    ) -> None:
        self.running: list[Branch] = []
        self.preemptions = 0
        self._sequence_pool = sequence_pool
        self._queue = queue
        self._max_sequences = max_sequences
        self._admissions = 0
        # By admission number: the running branches that have prompt left to compute.
        self._leaders: dict[int, Branch] = {}
        self._upcoming = PrefixTree(self._read_tokens)  # the tokens that leaders will compute

    def admit(self, now: float) -> list[Branch]:
        """Admit branches from the queue; returns those that run for the first time.

        When there is no place for the branch whose turn it is, the head of another queue may take
        the place of a running branch.
        """
        started = []
        while (turn := self._queue.peek(now)) is not None:
            branch = next((b for b in self._candidates(turn) if self._make_place(b)), None)
            if branch is None:
                break
            self._queue.take(branch)
            if self._start(branch):
                started.append(branch)
        return started

    def release_followers(self) -> None:
        """Start the followers whose leader has computed their prefix, or does not lead any more."""
        for branch in self.running:
            if branch.following is not None and not self._must_wait(branch.following):
                branch.following = None
                self._begin(branch, self._find_prefix(branch))

    def update_leader(self, branch: Branch) -> None:
        """Call this after a step of a prompt: a branch that has read its prompt leads no more."""
        if branch.pending <= 1:
            self._stop_leading(branch)

    def release(self, branch: Branch, *, is_trusted: bool = True) -> None:
        """Stop running a branch. Its sequence is kept for others if its memory can be trusted."""
        self.running.remove(branch)
        self._stop_leading(branch)
        branch.following = None
        branch.checkpoint_lengths.clear()
        if branch.sequence is not None:
            if is_trusted:
                self._sequence_pool.give_back(branch.sequence)
            else:
                self._sequence_pool.drop(branch.sequence)
            branch.sequence = None

    def preempt(self, branch: Branch) -> None:
        """Send a branch back to the queue; it keeps its tokens."""
        self.preemptions += 1
        self.release(branch)
        self._queue.put_back(branch)

    def _candidates(self, turn: Branch) -> Iterator[Branch]:
        """The branch whose turn it is, if a place is free; then heads that may displace a branch.

        This must be cheap: it runs at every step while branches wait.
        """
        places = Counter(other.request.principal for other in self.running)
        most = max(places.values(), default=0)
        worst = max((other.request.lane for other in self.running), default=None)
        if len(self.running) < self._max_sequences:
            yield turn
        for head in self._queue.heads():
            is_short = places[head.request.principal] + 1 < most
            if is_short or (worst is not None and head.request.lane < worst):
                yield head

    def _make_place(self, branch: Branch) -> bool:
        """Preempt the branches that must yield to this one, if it then has a place and cells.

        Otherwise nothing is preempted, and the result is False.
        """
        prefix = self._find_prefix(branch)
        staying = list(self.running)
        while not self._fits(branch, prefix, staying):
            victim = _choose_victim(branch, staying)
            if victim is None:
                return False
            staying.remove(victim)
        for other in [other for other in self.running if other not in staying]:
            self.preempt(other)
        return True

    def _fits(self, branch: Branch, prefix: _Prefix, staying: Sequence[Branch]) -> bool:
        """Whether its tokens fit beside the cells that the others hold and are about to take."""
        if not staying:
            return True
        if len(staying) >= self._max_sequences:
            return False
        busy = [other.sequence for other in staying if other.sequence is not None]
        has_leader = prefix.following is not None and prefix.following.leader in staying
        is_shared = has_leader or (prefix.match is not None and prefix.match.source in busy)
        needed = len(branch.tokens) - (prefix.saved_tokens if is_shared else 0)
        outstanding = sum(
            other.pending
            - (other.following.until if other.following is not None else 0)
            + _HEADROOM
            for other in staying
        )
        cells = self._sequence_pool.cells
        held = cells.count_held(sequence.leaf for sequence in busy)
        return needed + outstanding + held <= cells.capacity

    def _start(self, branch: Branch) -> bool:
        """Run a branch; True if it has not run before."""
        self._admissions += 1
        branch.admission_number = self._admissions
        self.running.append(branch)
        prefix = self._find_prefix(branch)
        is_new = branch.cached_tokens is None
        if is_new:
            branch.cached_tokens = prefix.saved_tokens
        self._begin(branch, prefix)
        if branch.request.is_shareable and branch.pending > 1:
            self._leaders[branch.admission_number] = branch
            self._upcoming.insert(branch.admission_number, branch.tokens, len(branch.tokens))
        return is_new

    def _begin(self, branch: Branch, prefix: _Prefix) -> None:
        """Let the branch follow its leader, or lend it a sequence."""
        if prefix.following is not None:
            branch.following = prefix.following
            if self._sequence_pool.is_recurrent:
                prefix.following.leader.checkpoint_lengths.add(prefix.following.until)
            return
        branch.sequence = self._sequence_pool.lend(
            branch.tokens,
            prefix.match,
            is_shareable=branch.request.is_shareable,
            principal=branch.request.principal,
        )

    def _find_prefix(self, branch: Branch) -> _Prefix:
        if not branch.request.is_shareable or branch.request.wants_prompt_logits:
            return _Prefix(None, None)
        match = self._sequence_pool.find(branch.tokens)
        return _Prefix(match, self._find_leader(branch, match.length if match is not None else 0))

    def _find_leader(self, branch: Branch, computed: int) -> Following | None:
        """Find a branch admitted earlier that will compute clearly more of these tokens."""
        before = branch.admission_number or self._admissions + 1

        def may_lead(admission_number: int, _length: int) -> bool:
            leader = self._leaders[admission_number]
            return admission_number < before and leader is not branch

        found = self._upcoming.find(branch.tokens, may_lead)
        if found is None:
            return None
        leader = self._leaders[found[0]]
        until = min(found[1], len(branch.tokens) - 1)
        if until < computed + BLOCK or leader.computed >= until:
            return None
        return Following(leader, leader.admission_number, until)

    def _must_wait(self, following: Following) -> bool:
        leader = following.leader
        return following.admission_number in self._leaders and leader.computed < following.until

    def _stop_leading(self, branch: Branch) -> None:
        if self._leaders.get(branch.admission_number) is branch:
            del self._leaders[branch.admission_number]
            self._upcoming.remove(branch.admission_number)

    def _read_tokens(self, admission_number: int, start: int, end: int) -> Sequence[int]:
        return self._leaders[admission_number].tokens[start:end]


def _choose_victim(branch: Branch, running: Sequence[Branch]) -> Branch | None:
    """Choose who yields to a branch: one of a worse lane, or of a principal with more places.

    A place changes hands only while that makes the shares more even, so it cannot swing back.
    """
    places = Counter(other.request.principal for other in running)
    own = places[branch.request.principal]

    def yields(other: Branch) -> bool:
        if other.request.lane != branch.request.lane:
            return other.request.lane > branch.request.lane
        return places[other.request.principal] > own + 1

    return max(
        (other for other in running if yields(other)),
        key=lambda other: (other.request.lane, places[other.request.principal], other.age),
        default=None,
    )
