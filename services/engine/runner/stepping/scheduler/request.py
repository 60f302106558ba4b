"""A request and its branches: what the scheduler knows of an answer."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.engine.core import Lane
from services.engine.runner.stepping.kv.sequence_pool import Held


@dataclass(slots=True, eq=False)
class Request:
    """One prompt and `n` answers to it."""

    id: int
    prompt: list[int]
    limit: int  # tokens of prompt and answer at most
    n: int = 1
    lane: Lane = Lane.INTERACTIVE
    principal: str = ""
    arrived: float = 0.0  # seconds on the loop's clock
    deadline: float | None = None  # on the same clock
    is_public: bool = True  # may share computed tokens with other requests
    wants_prompt_logits: bool = False
    serial: int = 0  # order of arrival
    branches: list[Branch] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        """Whether every answer ended."""
        return all(branch.is_done for branch in self.branches)


@dataclass(slots=True, eq=False)
class Branch:
    """One answer under way. `tokens` is the prompt and what was generated so far.

        tokens   [ 0 ... computed )  in memory     [ computed ... len )  pending

    A branch with one pending token generates; with more it still reads its prompt (or, after it was
    preempted, prompt and answer again).
    """

    request: Request
    index: int
    tokens: list[int]
    held: Held | None = None
    admitted: int = 0  # order of the last admission
    follows: Following | None = None
    cuts: set[int] = field(default_factory=set)  # lengths others wait for, recurrent memory only
    cached_tokens: int | None = None  # of the prompt, at the first admission
    counted_tokens: int = 0  # of the prompt, computed for this branch at least once
    is_charged: bool = False  # the queue took its cost from the principal's turn
    is_done: bool = False

    @property
    def computed(self) -> int:
        """Tokens in memory."""
        return self.held.length if self.held is not None else 0

    @property
    def pending(self) -> int:
        """Tokens to compute before the next one can be sampled."""
        return len(self.tokens) - self.computed

    @property
    def age(self) -> tuple[int, int, int]:
        """Sorts the branch to preempt first to the end."""
        return (self.request.lane, self.request.serial, self.index)


@dataclass(frozen=True, slots=True, eq=False)
class Following:
    """A branch waits for another to compute the tokens both begin with."""

    leader: Branch
    admitted: int  # the leader's, when this began: a leader that was preempted leads no more
    until: int  # tokens
