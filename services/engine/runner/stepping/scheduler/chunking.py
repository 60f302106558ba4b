"""What of whom is computed in the next step: every generating branch, then parts of prompts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from services.engine.runner.stepping.scheduler.prefill_budget import TILE_ROWS
from services.engine.runner.stepping.scheduler.prefill_shares import Slices
from services.engine.runner.stepping.scheduler.request import Branch
from services.engine.runner.stepping.scheduler.step_plan import Chunk

# What a row computed alone pays for a cell it sees, over what a row in a tile pays for any in use.
_SPARSE = 8
_LOGIT_ROWS = 32  # prompt tokens a step whose logits are wanted; each is a row of the vocabulary
# A recurrent memory is saved this many tokens before a prompt's end: the next turn of a chat, or the
# same prompt again, differs from it only in what the template puts last.
_SAVED_BEFORE_END = 8
_LEAST_SAVED = 64  # tokens of prompt from which that pays


def decode_chunks(running: Iterable[Branch]) -> list[Chunk]:
    """One token for every branch with nothing else left to compute."""
    return [
        Chunk(branch, len(branch.tokens) - 1, 1, outputs=1)
        for branch in running
        if branch.follows is None and branch.pending == 1
    ]


def prompt_chunks(
    slices: Slices,
    prompts: Sequence[Branch],
    budget: int,
    *,
    beside: Sequence[Chunk],
    cells_used: int,
    is_recurrent: bool,
) -> list[Chunk]:
    """The next parts of prompts, `budget` tokens in all, dealt out in slices, for a step with `beside`."""
    wants = {b: _wanted(b, is_recurrent=is_recurrent) for b in _one_with_logits(prompts)}
    dealt = slices.deal(wants, budget)
    if _is_sparse_tile(dealt, beside, cells_used):
        branch, count = dealt.pop()
        dealt.append((branch, count - 1))
    return [
        _chunk(branch, count, is_recurrent=is_recurrent) for branch, count in dealt if count > 0
    ]


def _is_sparse_tile(
    dealt: Sequence[tuple[Branch, int]], beside: Sequence[Chunk], cells_used: int
) -> bool:
    """Whether a step fills one tile whose rows see little of the memory.

    A tile computes attention over all cells in use, row by row only over the row's own: with many
    short sequences one row less makes a step 10 to 30 % shorter.
    """
    if sum(count for _, count in dealt) + len(beside) != TILE_ROWS:
        return False
    seen = sum(chunk.start for chunk in beside)
    seen += sum(count * (branch.computed + count // 2) for branch, count in dealt)
    return _SPARSE * seen < TILE_ROWS * cells_used


def _one_with_logits(prompts: Sequence[Branch]) -> list[Branch]:
    """Logits of prompt tokens are for one branch a step: their rows were reserved at load."""
    wanting = [branch for branch in prompts if branch.request.wants_prompt_logits]
    return [b for b in prompts if not b.request.wants_prompt_logits or b is wanting[0]]


def _wanted(branch: Branch, *, is_recurrent: bool) -> int:
    """Tokens up to the next place where the chunk must end."""
    if branch.request.wants_prompt_logits and branch.computed < len(branch.request.prompt):
        return min(branch.pending, _LOGIT_ROWS)
    if not is_recurrent:
        return branch.pending
    ends = [cut for cut in (*branch.cuts, _saved_length(branch)) if cut > branch.computed]
    return min([branch.pending] + [end - branch.computed for end in ends])


def _chunk(branch: Branch, count: int, *, is_recurrent: bool) -> Chunk:
    start = branch.computed
    end = start + count
    outputs = 1 if end == len(branch.tokens) else 0
    if branch.request.wants_prompt_logits and start < len(branch.request.prompt):
        outputs = count
    ends_at_checkpoint = (
        is_recurrent
        and branch.request.is_public
        and (end == _saved_length(branch) or end in branch.cuts)
    )
    return Chunk(branch, start, count, outputs, ends_at_checkpoint=ends_at_checkpoint)


def _saved_length(branch: Branch) -> int:
    length = len(branch.request.prompt)
    return length - _SAVED_BEFORE_END if length >= _LEAST_SAVED else 0
