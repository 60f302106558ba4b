"""Guesses at the next tokens, computed beside the real one where that is nearly free.

A drafted token is a row like any other: it costs little only while a step has few, and never while
somebody waits for a first token.
"""

from __future__ import annotations

from collections.abc import Callable

from services.engine.runner.stepping.scheduler.request import Branch
from services.engine.runner.stepping.scheduler.step_plan import Chunk

_MOST_BRANCHES = 4
_MOST_ROWS = 32  # drafted tokens of one step

Draft = Callable[[Branch, int], list[int]]


def add_drafts(chunks: list[Chunk], draft: Draft, room: int) -> list[Chunk]:
    """The chunks with drafts behind those that generate, at most `room` drafted tokens in all."""
    if len(chunks) > _MOST_BRANCHES or any(c.count > 1 or not c.outputs for c in chunks):
        return chunks
    rows = min(_MOST_ROWS, room)
    drafted = []
    for place, chunk in enumerate(chunks):
        branch = chunk.branch
        share = rows // (len(chunks) - place)
        wanted = min(share, branch.request.limit - len(branch.tokens) - 1)
        drafts = draft(branch, wanted) if wanted > 0 else []
        rows -= len(drafts)
        drafted.append(
            Chunk(branch, chunk.start, chunk.count, chunk.outputs + len(drafts), drafts)
            if drafts
            else chunk
        )
    return drafted
