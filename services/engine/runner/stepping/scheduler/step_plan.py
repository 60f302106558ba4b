"""What the scheduler tells the loop to do in one step, and what the loop tells back."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.engine.runner.stepping.kv.sequence_pool import Move
from services.engine.runner.stepping.scheduler.request import Branch, Request


@dataclass(slots=True, eq=False)
class Chunk:
    """Tokens [start, start + count) of a branch, then guesses at what follows.

    `outputs` of its last tokens want logits: none inside a prompt, one at its end, one more per
    drafted token, all where the prompt's own are wanted. The loop writes down what came of it.
    """

    branch: Branch
    start: int
    count: int
    drafts: list[int] = field(default_factory=list)
    outputs: int = 0
    ends_at_checkpoint: bool = False
    # Set by the loop:
    checkpoint: bytes | None = None  # what the backend gave at that place
    sampled: list[int] | None = None  # tokens to append; none if the first one ended the answer
    is_finished: bool = False  # the answer is over
    is_failed: bool = False  # what memory holds of it is not to be trusted

    @property
    def size(self) -> int:
        """Tokens to compute, drafts included."""
        return self.count + len(self.drafts)

    @property
    def is_last(self) -> bool:
        """Whether all of the branch's tokens are computed after it: a token can be sampled."""
        return self.start + self.count == len(self.branch.tokens)


@dataclass(slots=True, eq=False)
class StepPlan:
    """First the moves, then one backend step over the chunks, then `Scheduler.apply`."""

    moves: list[Move] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)
    started: list[Branch] = field(default_factory=list)  # for the first time
    expired: list[Request] = field(default_factory=list)  # their deadline passed; already gone
    too_long: list[Request] = field(default_factory=list)  # cannot fit even alone; already gone
    positions: list[tuple[int, int]] = field(default_factory=list)  # (request id, place) if changed

    @property
    def size(self) -> int:
        """Tokens of the step."""
        return sum(chunk.size for chunk in self.chunks)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of it that belong to chunks of more than one."""
        return sum(chunk.count for chunk in self.chunks if chunk.count > 1)
