"""Guesses at the next tokens, computed beside the real one where that is nearly free.

A drafted token is a row like any other: it costs little only while a step has few, and never while
somebody waits for a first token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from services.engine.runner.stepping.scheduler.request import Branch
from services.engine.runner.stepping.scheduler.step_plan import Chunk

_MOST_BRANCHES = 4
_MOST_ROWS = 32  # drafted tokens of one step

Draft = Callable[[Branch, int], list[int]]


def add_drafts(chunks: Sequence[Chunk], draft: Draft, room: int) -> None:
    """Append drafts to chunks that generate, `room` tokens in all at most."""
    if len(chunks) > _MOST_BRANCHES or any(c.count > 1 or not c.outputs for c in chunks):
        return
    rows = min(_MOST_ROWS, room)
    for place, chunk in enumerate(chunks):
        branch = chunk.branch
        share = rows // (len(chunks) - place)
        wanted = min(share, branch.request.limit - len(branch.tokens) - 1)
        if wanted > 0:
            chunk.drafts = draft(branch, wanted)
            chunk.outputs += len(chunk.drafts)
            rows -= len(chunk.drafts)
