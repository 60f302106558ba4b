"""Fill a backend's step from a plan: slices of numpy arrays, no work per prompt token in Python."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from services.engine.backends.base import Step
from services.engine.runner.stepping.scheduler.step_plan import Chunk


def fill(step: Step, chunks: Sequence[Chunk]) -> None:
    """Write the chunks into the step, in their order; so are the outputs."""
    plain = _leading_decodes(chunks)
    if plain:
        step.tokens[:plain] = [chunk.branch.tokens[chunk.start] for chunk in chunks[:plain]]
        step.positions[:plain] = [chunk.start for chunk in chunks[:plain]]
        step.sequences[:plain] = [_sequence(chunk) for chunk in chunks[:plain]]
        step.wants_logits[:plain] = 1
    at = plain
    for chunk in chunks[plain:]:
        at = _put(step, at, chunk)
    step.size = at


def _leading_decodes(chunks: Sequence[Chunk]) -> int:
    """How many chunks from the first on are one token with its logits."""
    for place, chunk in enumerate(chunks):
        if chunk.count != 1 or chunk.drafts or chunk.outputs != 1:
            return place
    return len(chunks)


def _put(step: Step, at: int, chunk: Chunk) -> int:
    end = at + chunk.size
    drafted = at + chunk.count
    step.tokens[at:drafted] = chunk.branch.tokens[chunk.start : chunk.start + chunk.count]
    step.tokens[drafted:end] = chunk.drafts
    step.positions[at:end] = np.arange(chunk.start, chunk.start + chunk.size, dtype=np.int32)
    step.sequences[at:end] = _sequence(chunk)
    step.wants_logits[at : end - chunk.outputs] = 0
    step.wants_logits[end - chunk.outputs : end] = 1
    return end


def _sequence(chunk: Chunk) -> int:
    held = chunk.branch.held
    assert held is not None
    return held.id
