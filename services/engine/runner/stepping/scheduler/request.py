"""A request and its branches: the scheduler's view of an answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from services.engine.core import CacheTier, Lane
from services.engine.runner.kvcache.chain import Chain
from services.engine.runner.stepping.drafting.prompt_lookup import PromptLookup
from services.engine.runner.stepping.kv.pooled_sequence import PooledSequence

AGEING_SECONDS = 10.0  # of waiting raise a branch by one lane
ASSUMED_ANSWER_TOKENS = 256  # the true length of an answer is not known beforehand


@dataclass(slots=True, eq=False)
class Request:
    """One prompt and `n` answers to it."""

    id: int
    prompt: list[int]
    max_length: int  # tokens of prompt and answer
    n: int = 1
    lane: Lane = Lane.INTERACTIVE
    principal: str = ""  # for fairness
    realm: str = ""  # computed tokens are shared only within it
    arrived_at: float = 0.0  # seconds on the loop's clock
    deadline: float | None = None  # on the same clock
    is_shareable: bool = True  # may share computed tokens with other requests
    wants_prompt_logits: bool = False
    chain: Chain | None = None  # of the prompt, in the store; None: nothing is stored or fetched
    cuts: tuple[int, ...] = ()  # prompt lengths at which others may part from it, see cuts.py
    serial: int = 0  # order of arrival
    scored_tokens: int = 0  # of the prompt, whose log-probabilities are known
    branches: list[Branch] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        """Whether every answer has ended."""
        return all(branch.is_done for branch in self.branches)


class StateFetch(Protocol):
    """States on their way from the store, of which PromptRestorer knows more."""

    def close(self) -> None:
        """Wait for no more states. Safe to call twice."""


@dataclass(slots=True, eq=False)
class Branch:
    """One answer that waits or runs. `tokens` is the prompt and what was generated so far.

        tokens   [ 0 ... computed )  in memory     [ computed ... len )  pending

    A branch with one pending token generates. With more, it still reads its prompt (or its prompt
    and answer again, after it was preempted).
    """

    request: Request
    index: int
    tokens: list[int]
    sequence: PooledSequence | None = None
    admission_number: int = 0  # order of the last admission
    rank: int = 0  # at the last admission; see `rank_at`
    has_passed: bool = False  # it was admitted before a branch that waits for cells
    following: Following | None = None
    # Prompt lengths at which its state is kept for others, where a memory cannot be cut anywhere.
    checkpoint_lengths: set[int] = field(default_factory=set)
    is_prefetched: bool = False  # what is stored of it was brought into RAM while it waited
    fetch: StateFetch | None = None  # until it is over, the branch computes nothing
    snapshot_lengths: set[int] = field(default_factory=set)  # at which the store gets the state
    cached_tokens: int | None = None  # of the prompt, when it first began to compute
    stored_tokens: int = 0  # of those: they came from the store
    disk_tokens: int = 0  # of those: from the disk
    tier: CacheTier | None = None  # the slowest that they came from
    saved_seconds: float = 0.0  # that their computation took when they were stored
    counted_tokens: int = 0  # of the prompt, computed for this branch at least once
    is_charged: bool = False  # the queue has charged its cost to the principal
    is_done: bool = False
    prompt_lookup: PromptLookup = field(default_factory=PromptLookup)
    draft_tokens: int = 0
    draft_accepted: int = 0  # of these

    @property
    def computed(self) -> int:
        """Tokens in memory."""
        return self.sequence.length if self.sequence is not None else 0

    @property
    def is_waiting(self) -> bool:
        """Whether it holds a place, but waits for what another branch or the store gives it."""
        return self.following is not None or self.fetch is not None

    @property
    def pending(self) -> int:
        """Tokens to compute before the next one can be sampled."""
        return len(self.tokens) - self.computed

    @property
    def own_pending(self) -> int:
        """The pending tokens without those that its leader computes."""
        following = self.following
        return self.pending - (following.until if following and following.is_current else 0)

    @property
    def estimated_cells(self) -> int:
        """The cells that it will hold, if its answer is as long as is assumed."""
        return min(len(self.tokens) + ASSUMED_ANSWER_TOKENS, self.request.max_length)

    @property
    def age(self) -> tuple[int, int, int]:
        """Sort key: the largest one is preempted first."""
        return (self.rank, self.request.serial, self.index)

    def rank_at(self, now: float) -> int:
        """Its lane, better by one per `AGEING_SECONDS` since it arrived; the lowest goes first."""
        return self.request.lane - int((now - self.request.arrived_at) / AGEING_SECONDS)

    def propose_draft(self, limit: int, min_acceptance: float) -> list[int]:
        """At most so many tokens that may come next; see PromptLookup.propose."""
        return self.prompt_lookup.propose(self.tokens, limit, min_acceptance=min_acceptance)

    def close_fetch(self) -> None:
        """Wait for no more states, if it does."""
        if self.fetch is not None:
            self.fetch.close()
            self.fetch = None

    def record_stored(self, tokens: int, tier: CacheTier, seconds: float) -> None:
        """So many tokens came from the store; once it has begun to compute, that is not counted."""
        if self.cached_tokens is None:
            self.stored_tokens += tokens
            self.disk_tokens += tokens if tier == "disk" else 0
            self.tier = "disk" if "disk" in (self.tier, tier) else tier
            self.saved_seconds += seconds

    def forget_cached(self) -> None:
        """The tokens that it began with were lost."""
        self.stored_tokens = self.disk_tokens = 0
        self.tier, self.saved_seconds = None, 0.0
        if self.cached_tokens is not None:
            self.cached_tokens = 0

    def record_draft(self, proposed: int, accepted: int) -> None:
        """Record what came of a draft."""
        self.prompt_lookup.observe(proposed, accepted)
        self.draft_tokens += proposed
        self.draft_accepted += accepted


@dataclass(frozen=True, slots=True, eq=False)
class Following:
    """A branch waits for another one, the leader, to compute the prefix that both share."""

    leader: Branch
    admission_number: int  # of the leader, when this began: it no longer leads after a preemption
    until: int  # tokens

    @property
    def is_current(self) -> bool:
        """Whether the leader has not been preempted since."""
        return self.admission_number == self.leader.admission_number
