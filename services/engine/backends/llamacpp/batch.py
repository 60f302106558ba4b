"""A llama_batch over the arrays of a step."""

from __future__ import annotations

import ctypes
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.engine.backends.base import Ints, Step


def build_batch(
    lib: ModuleType, step: Step, positions: Ints
) -> tuple[Any, tuple[Ints, NDArray[np.uint64]]]:
    """Build a llama_batch over the step's own arrays, so that slicing numpy arrays fills it.

    Every token has one sequence: `seq_id[i]` points at `step.sequences[i]`. The second result is
    the arrays that only llama.cpp reads; keep it as long as the batch.
    """
    capacity = len(step.tokens)
    counts = np.ones(capacity, np.int32)
    pointers = step.sequences.ctypes.data + 4 * np.arange(capacity, dtype=np.uint64)
    field = dict(lib.llama_batch._fields_)

    def point_to(array: NDArray[Any], name: str) -> Any:
        return ctypes.cast(array.ctypes.data, field[name])

    batch = lib.llama_batch(
        n_tokens=0,
        token=point_to(step.tokens, "token"),
        embd=None,
        pos=point_to(positions, "pos"),
        n_seq_id=point_to(counts, "n_seq_id"),
        seq_id=point_to(pointers, "seq_id"),
        logits=point_to(step.wants_logits, "logits"),
    )
    return batch, (counts, pointers)
