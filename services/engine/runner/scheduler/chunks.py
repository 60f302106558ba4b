"""What of whom is computed in the next step: every generating branch, then parts of prompts.

Prompt work is shared by lane, then evenly between principals, then evenly between a principal's
prompts; what one does not need goes to the others. One token more or less moves on by turns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from services.engine.core import Lane
from services.engine.runner.scheduler.plan import Chunk
from services.engine.runner.scheduler.requests import Branch

_LANE_WEIGHTS = {Lane.INTERACTIVE: 16, Lane.BACKGROUND: 4, Lane.BATCH: 1}
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


def prompt_chunks(prompts: Sequence[Branch], budget: int, *, is_recurrent: bool) -> list[Chunk]:
    """The next part of each prompt, `budget` tokens in all."""
    prompts = _one_with_logits(prompts)
    wants = [_wanted(branch, is_recurrent=is_recurrent) for branch in prompts]
    groups: dict[tuple[Lane, str], list[int]] = {}
    for place, branch in enumerate(prompts):
        groups.setdefault((branch.request.lane, branch.request.principal), []).append(place)
    shares = share_out(
        budget,
        [sum(wants[place] for place in places) for places in groups.values()],
        [_LANE_WEIGHTS[lane] for lane, _ in groups],
    )
    chunks = []
    for places, share in zip(groups.values(), shares, strict=True):
        counts = share_out(share, [wants[place] for place in places], [1] * len(places))
        for place, count in zip(places, counts, strict=True):
            if count > 0:
                chunks.append(_chunk(prompts[place], count, is_recurrent=is_recurrent))
    return chunks


def share_out(total: int, wants: Sequence[int], weights: Sequence[int]) -> list[int]:
    """Split `total` by weight, nobody more than wanted, nothing left while anyone wants.

    Earlier places get what division leaves over.
    """
    shares = [0] * len(wants)
    open_places = [place for place, want in enumerate(wants) if want > 0]
    while total > 0 and open_places:
        weight = sum(weights[place] for place in open_places)
        given = 0
        for place in open_places:
            fair = max(1, total * weights[place] // weight)
            more = min(fair, wants[place] - shares[place], total - given)
            shares[place] += more
            given += more
        total -= given
        open_places = [place for place in open_places if shares[place] < wants[place]]
    return shares


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
    chunk = Chunk(branch, branch.computed, count)
    end = chunk.start + count
    if branch.request.wants_prompt_logits and chunk.start < len(branch.request.prompt):
        chunk.outputs = count
    elif chunk.is_last:
        chunk.outputs = 1
    chunk.ends_at_checkpoint = (
        is_recurrent
        and branch.request.is_public
        and (end == _saved_length(branch) or end in branch.cuts)
    )
    return chunk


def _saved_length(branch: Branch) -> int:
    length = len(branch.request.prompt)
    return length - _SAVED_BEFORE_END if length >= _LEAST_SAVED else 0
