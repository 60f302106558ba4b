"""Draft the next tokens, to compute them beside the real one where that costs little.

A drafted token is a row like any other. It is cheap only while a step has few rows, and steps that
compute parts of prompts get no drafts, because a client waits for the first token there.
"""

from __future__ import annotations

from collections.abc import Callable

from services.engine.runner.stepping.drafting.draft_costs import DraftCosts
from services.engine.runner.stepping.scheduler.request import Branch
from services.engine.runner.stepping.scheduler.step_plan import Chunk

_MAX_BRANCHES = 4
_MAX_ROWS = 32  # drafted tokens of one step

# Proposes at most so many tokens (the first number) where at least so large a part of them is
# expected to be accepted (the second number).
ProposeDraft = Callable[[Branch, int, float], list[int]]


def add_drafts(
    chunks: list[Chunk], propose_draft: ProposeDraft, room: int, costs: DraftCosts
) -> list[Chunk]:
    """Add drafts to the chunks of a step that only generates, at most `room` tokens in all."""
    if len(chunks) > _MAX_BRANCHES or any(c.count > 1 or not c.outputs for c in chunks):
        return chunks
    rows = min(_MAX_ROWS, room, costs.max_rows(len(chunks)))
    min_acceptance = costs.min_acceptance(len(chunks))
    with_drafts = []
    for place, chunk in enumerate(chunks):
        branch = chunk.branch
        share = rows // (len(chunks) - place)
        wanted = min(share, branch.request.max_length - len(branch.tokens) - 1)
        drafts = propose_draft(branch, wanted, min_acceptance) if wanted > 0 else []
        rows -= len(drafts)
        outputs = chunk.outputs + len(drafts)
        with_drafts.append(Chunk(branch, chunk.start, chunk.count, outputs, drafts))
    return with_drafts
