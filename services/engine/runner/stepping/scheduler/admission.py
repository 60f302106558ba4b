"""Admit waiting branches: decide which branches run, and where each one begins.

An admitted branch begins with the longest computed prefix. If a running branch is about to compute
more of the same tokens, the new one waits for it (it follows that leader) instead of computing them
a second time. So a prompt that many clients send at once is computed once, and `n` answers share
their prompt. Where more of it is stored than is computed, the branch is lent a sequence and waits
for the states; it leads meanwhile, as if it computed them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice

from services.engine.runner.stepping.kv.pooled_sequence import Match, PooledSequence
from services.engine.runner.stepping.kv.sequence_pool import SequencePool
from services.engine.runner.stepping.scheduler.cut_selection import list_cuts
from services.engine.runner.stepping.scheduler.fair_queue import FairQueue
from services.engine.runner.stepping.scheduler.following import Leaders, Prefix
from services.engine.runner.stepping.scheduler.places import (
    choose_victim,
    find_worst_ranks,
    outranks_any,
)
from services.engine.runner.stepping.scheduler.request import Branch
from services.engine.runner.stepping.scheduler.stored_prefixes import StoredPrefixes

_MAX_PASSING_SECONDS = 30.0  # others may pass a branch that waits for cells for so long
_MAX_PASSERS_TRIED = 4  # in each step
_HEADROOM = 16  # cells that each running branch can still take before one must make room


class AdmissionControl:
    """The running branches. Owns which branch holds a sequence; the scheduler owns the rest."""

    def __init__(
        self,
        sequence_pool: SequencePool,
        queue: FairQueue,
        stored_prefixes: StoredPrefixes | None = None,
        *,
        max_sequences: int,
    ) -> None:
        self.running: list[Branch] = []
        self.preemptions = 0
        self._sequence_pool = sequence_pool
        self._queue = queue
        self._stored_prefixes = stored_prefixes
        self._max_sequences = max_sequences
        self._admissions = 0
        self._started: list[Branch] = []
        # The branch that waits for cells at the head of the queue, and since when.
        self._blocked: tuple[Branch | None, float] = (None, 0.0)
        self._leaders = Leaders()

    @property
    def fetching(self) -> list[Branch]:
        """The running branches that wait for states from the store."""
        return [branch for branch in self.running if branch.fetch is not None]

    def admit(self, now: float) -> None:
        """Admit branches from the queue.

        When there is no place for the branch whose turn it is, the head of another queue may take
        the place of a running branch. When it waits for cells, a branch that would still fit beside
        it may pass.
        """
        while (turn := self._queue.peek(now)) is not None:
            candidates = self._candidates(turn, now)
            branch = next((b for b in candidates if self._make_place(b, now)), None)
            has_passed = branch is None
            if branch is None:
                branch = self._find_passer(turn, now)
            if branch is None:
                self._prefetch(turn)
                break
            self._queue.take(branch)
            branch.rank = branch.rank_at(now)
            branch.has_passed = has_passed
            self._start(branch)

    def take_started(self) -> list[Branch]:
        """Remove and return the branches that were lent their first sequence."""
        started, self._started = self._started, []
        return started

    def release_followers(self) -> None:
        """Start the followers whose leader has computed their prefix, or does not lead any more."""
        for branch in self.running:
            if branch.following is not None and not self._leaders.must_wait(branch.following):
                branch.following = None
                self._begin(branch, self._find_prefix(branch))

    def update_leader(self, branch: Branch) -> None:
        """Call this after a step of a prompt: a branch that has read its prompt leads no more."""
        if branch.pending <= 1:
            self._leaders.remove(branch)

    def release(self, branch: Branch, *, is_trusted: bool = True) -> None:
        """Stop running a branch. Its sequence is kept for others if its memory can be trusted."""
        self.running.remove(branch)
        self._leaders.remove(branch)
        branch.following = None
        branch.checkpoint_lengths.clear()
        branch.snapshot_lengths.clear()
        branch.close_fetch()
        if branch.sequence is not None:
            if is_trusted:
                self._sequence_pool.give_back(branch.sequence)
            else:
                self._sequence_pool.drop(branch.sequence)
            branch.sequence = None

    def restart(self, lost: frozenset[int]) -> set[Branch]:
        """Lend an empty sequence to every branch whose sequence was lost, and drop idle ones."""
        self._sequence_pool.drop_cached(lost)
        restarted = set()
        for branch in self.running:
            if branch.sequence is not None and branch.sequence.id in lost:
                self.end_fetch(branch, is_lost=True)
                restarted.add(branch)
        return restarted

    def end_fetch(self, branch: Branch, *, is_lost: bool = False) -> None:
        """Let a branch compute what was not fetched; all of it if its sequence was lost."""
        branch.close_fetch()
        if is_lost:
            self._begin_again(branch, None)
            branch.forget_cached()
        elif not branch.computed:  # it may have given up a computed prefix for a longer stored one
            self._begin_again(branch, self._find_prefix(branch).match)
        self._begin_to_compute(branch)
        self.update_leader(branch)

    def preempt(self, branch: Branch) -> None:
        """Send a branch back to the queue; it keeps its tokens."""
        self.preemptions += 1
        self.release(branch)
        self._queue.put_back(branch)

    def _candidates(self, turn: Branch, now: float) -> Iterator[Branch]:
        """The branch whose turn it is, if a place is free; then heads that may displace a branch.

        This must be cheap: it runs at every step while branches wait.
        """
        places = Counter(other.request.principal for other in self.running)
        most = max(places.values(), default=0)
        if len(self.running) < self._max_sequences:
            yield turn
            if self._is_blocked_too_long(turn, now):
                return
        worst_ranks = find_worst_ranks(self.running)
        for head in self._queue.heads():
            is_short = places[head.request.principal] + 1 < most
            if is_short or outranks_any(head, worst_ranks, now):
                yield head

    def _find_passer(self, turn: Branch, now: float) -> Branch | None:
        """Find a branch that may run before `turn`, which has a place but waits for cells.

        It must fit now, and also beside `turn` and all branches that have passed it. This is
        limited in time, because the estimate of what those branches will take may be wrong.
        """
        if self._blocked[0] is not turn:
            self._blocked = (turn, now)
        if len(self.running) >= self._max_sequences or self._is_blocked_too_long(turn, now):
            return None
        room = self._sequence_pool.cells.capacity - turn.estimated_cells
        room -= sum(other.estimated_cells for other in self.running if other.has_passed)
        for branch in islice(self._queue, _MAX_PASSERS_TRIED):
            if branch is turn or branch.estimated_cells > room:
                continue
            if self._fits(branch, self._find_prefix(branch), self.running):
                return branch
        return None

    def _prefetch(self, turn: Branch) -> None:
        """Bring into RAM what is stored of the branch that is next, while it waits."""
        store = self._stored_prefixes
        if store is not None and not turn.is_prefetched:
            turn.is_prefetched = True
            prefix = self._find_prefix(turn)
            store.prefetch(turn, computed=prefix.computed, saved=prefix.saved_tokens)

    def _is_blocked_too_long(self, turn: Branch, now: float) -> bool:
        """Whether no other branch may take a free place any more, so that `turn` gets its cells."""
        blocked, since = self._blocked
        return blocked is turn and now - since > _MAX_PASSING_SECONDS

    def _make_place(self, branch: Branch, now: float) -> bool:
        """Preempt the branches that must yield to this one, if it then has a place and cells.

        Otherwise nothing is preempted, and the result is False.
        """
        prefix = self._find_prefix(branch)
        staying = list(self.running)
        own_places = sum(b.request.principal == branch.request.principal for b in staying)
        while not self._fits(branch, prefix, staying):
            victim = choose_victim(branch, staying, now, own_places=own_places)
            if victim is None:
                return False
            staying.remove(victim)
        for other in [other for other in self.running if other not in staying]:
            self.preempt(other)
        return True

    def _fits(self, branch: Branch, prefix: Prefix, staying: Sequence[Branch]) -> bool:
        """Whether its tokens fit beside the cells that the others hold and are about to take."""
        if not staying:
            return True
        if len(staying) >= self._max_sequences:
            return False
        if not self._sequence_pool.shares_cells:
            return True  # each sequence has a part of its own, as long as a request may become
        busy = [other.sequence for other in staying if other.sequence is not None]
        has_leader = prefix.following is not None and prefix.following.leader in staying
        is_shared = has_leader or (prefix.match is not None and prefix.match.source in busy)
        needed = len(branch.tokens) - (prefix.saved_tokens if is_shared else 0)
        outstanding = sum(other.own_pending + _HEADROOM for other in staying)
        cells = self._sequence_pool.cells
        held = cells.count_held(sequence.leaf for sequence in busy)
        return needed + outstanding + held <= cells.capacity

    def _start(self, branch: Branch) -> None:
        self._admissions += 1
        branch.admission_number = self._admissions
        self.running.append(branch)
        self._begin(branch, self._find_prefix(branch))
        self._leaders.add(branch)

    def _begin(self, branch: Branch, prefix: Prefix) -> None:
        """Fetch what is stored of the branch, let it follow its leader, or lend it a sequence."""
        store = self._stored_prefixes
        if branch.cached_tokens is None and prefix.computed < branch.stored_tokens:
            branch.forget_cached()  # it was preempted while it fetched, and that is gone
        if store is not None and (
            begin_fetch := store.find(branch, computed=prefix.computed, saved=prefix.saved_tokens)
        ):
            branch.sequence = self._lend(branch, store.cut(prefix.match))
            branch.fetch = begin_fetch(branch.computed)
            return
        if prefix.following is not None:
            branch.following = prefix.following
            if self._sequence_pool.takes_checkpoints:
                prefix.following.leader.checkpoint_lengths.add(prefix.following.until)
            return
        branch.sequence = self._lend(branch, prefix.match)
        self._begin_to_compute(branch)

    def _begin_again(self, branch: Branch, match: Match | None) -> None:
        """Lend another sequence instead of one that holds nothing, or nothing any more."""
        assert branch.sequence is not None
        self._sequence_pool.drop(branch.sequence)
        branch.sequence = self._lend(branch, match)

    def _begin_to_compute(self, branch: Branch) -> None:
        if self._stored_prefixes is not None:
            branch.snapshot_lengths = self._stored_prefixes.find_snapshot_lengths(branch)
        if branch.request.is_shareable:
            self._plan_checkpoints(branch)
        if branch.cached_tokens is None:
            branch.cached_tokens = branch.computed
            self._started.append(branch)

    def _plan_checkpoints(self, branch: Branch) -> None:
        """Choose the lengths of its prompt at which the state is kept for other prompts."""
        pool, sequence = self._sequence_pool, branch.sequence
        assert sequence is not None
        if pool.takes_checkpoints:
            branch.checkpoint_lengths.update(list_cuts(branch.request))
        elif pool.keeps_prefixes:
            branch.checkpoint_lengths.update(branch.request.cuts)
            if branch.computed in branch.request.cuts:  # it may have been fetched
                pool.keep_prefix(sequence)

    def _lend(self, branch: Branch, match: Match | None) -> PooledSequence:
        return self._sequence_pool.lend(
            branch.tokens,
            match,
            is_shareable=branch.request.is_shareable,
            principal=branch.request.principal,
            realm=branch.request.realm,
        )

    def _find_prefix(self, branch: Branch) -> Prefix:
        if not branch.request.is_shareable or branch.request.wants_prompt_logits:
            return Prefix(None, None)
        match = self._sequence_pool.find(branch.tokens, realm=branch.request.realm)
        if not self._sequence_pool.can_share_prefixes:
            return Prefix(match, None)
        following = self._leaders.find(
            branch,
            computed=match.length if match is not None else 0,
            before=branch.admission_number or self._admissions + 1,
        )
        return Prefix(match, following)
