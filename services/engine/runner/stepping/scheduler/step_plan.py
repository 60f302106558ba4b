"""What the scheduler asks of one step, and what came of it.

    StepPlan     from the scheduler, to the loop and the step builder
    StepResult   from the step sampler and the loop, back to the scheduler

Both are immutable. Chunks and their results are msgspec structs, because each step creates two of
them per answer and a frozen dataclass takes several times as long to create.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from services.engine.runner.stepping.kv.memory_operations import MemoryOperation
from services.engine.runner.stepping.scheduler.request import Branch, Request


class Chunk(msgspec.Struct, frozen=True, eq=False):
    """Tokens [start, start + count) of a branch, and drafts of those that follow.

    The last `outputs` of its tokens get logits: none inside a prompt, one at the end of a prompt,
    one more per drafted token, and all of them where the request wants the logits of its prompt.
    """

    branch: Branch
    start: int
    count: int
    outputs: int = 0
    drafts: Sequence[int] = ()
    ends_at_checkpoint: bool = False  # the state at its end is kept for others

    @property
    def size(self) -> int:
        """Tokens to compute, drafts included."""
        return self.count + len(self.drafts)

    @property
    def is_last(self) -> bool:
        """Whether all of the branch's tokens are computed after it: a token can be sampled."""
        return self.start + self.count == len(self.branch.tokens)


class ChunkResult(msgspec.Struct, frozen=True, eq=False):
    """What came of one chunk."""

    sampled: Sequence[int] | None = None  # tokens to append; empty if the first ended the answer
    is_finished: bool = False  # the answer is complete
    is_failed: bool = False  # the memory of its sequence cannot be trusted


@dataclass(frozen=True, slots=True, eq=False)
class StepPlan:
    """The memory operations to execute, and the chunks to compute after them in one step."""

    operations: Sequence[MemoryOperation] = ()
    chunks: Sequence[Chunk] = ()
    started: Sequence[Branch] = ()  # they run for the first time
    expired: Sequence[Request] = ()  # their deadline passed; already forgotten
    too_long: Sequence[Request] = ()  # they do not fit even alone; already forgotten
    positions: Sequence[tuple[int, int]] = ()  # (request id, place in the queue) where it changed

    @property
    def size(self) -> int:
        """Tokens of the step, drafts included."""
        return count_tokens(self.chunks)

    @property
    def prompt_tokens(self) -> int:
        """Tokens in chunks of more than one token."""
        return sum(chunk.count for chunk in self.chunks if chunk.count > 1)


@dataclass(frozen=True, slots=True, eq=False)
class StepResult:
    """What came of a plan whose step was computed."""

    chunks: Sequence[ChunkResult]  # one for each chunk of the plan, in the plan's order
    seconds: float  # inside the backend
    checkpoints: Mapping[Branch, bytes] = field(default_factory=dict)


def count_tokens(chunks: Sequence[Chunk]) -> int:
    """Tokens to compute in these chunks, drafts included."""
    return sum(chunk.size for chunk in chunks)
