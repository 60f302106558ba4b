"""Fill a backend's step from a plan, by slices of numpy arrays: no Python work per prompt token."""

from __future__ import annotations

from collections.abc import Sequence

from services.engine.backends.base import Step
from services.engine.runner.stepping.scheduler.step_plan import Chunk


def fill_step(step: Step, chunks: Sequence[Chunk]) -> None:
    """Write the chunks into the step, in their order; the step's outputs have the same order."""
    decodes = _count_leading_decodes(chunks)
    if decodes:
        step.tokens[:decodes] = [chunk.branch.tokens[chunk.start] for chunk in chunks[:decodes]]
        step.sequences[:decodes] = [_sequence_id(chunk) for chunk in chunks[:decodes]]
        step.wants_logits[:decodes] = 1
    end = decodes
    for chunk in chunks[decodes:]:
        end = _append(step, end, chunk)
    step.size = end


def _count_leading_decodes(chunks: Sequence[Chunk]) -> int:
    """How many chunks at the beginning are a single token with its logits."""
    for place, chunk in enumerate(chunks):
        if chunk.count != 1 or chunk.drafts or chunk.outputs != 1:
            return place
    return len(chunks)


def _append(step: Step, start: int, chunk: Chunk) -> int:
    """Write one chunk from entry `start` on; returns where the next one begins."""
    end = start + chunk.size
    drafted = start + chunk.count
    step.tokens[start:drafted] = chunk.branch.tokens[chunk.start : chunk.start + chunk.count]
    step.tokens[drafted:end] = chunk.drafts
    step.sequences[start:end] = _sequence_id(chunk)
    step.wants_logits[start : end - chunk.outputs] = 0
    step.wants_logits[end - chunk.outputs : end] = 1
    return end


def _sequence_id(chunk: Chunk) -> int:
    sequence = chunk.branch.sequence
    assert sequence is not None
    return sequence.id
