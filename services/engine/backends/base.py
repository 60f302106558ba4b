"""The contract between a runner's loop and what computes.

A backend owns the weights and one context whose memory is `cells` cells, shared by all sequences. A
cell holds one token of one or more sequences: sharing a prefix costs nothing, and a cell is free
again when its last sequence lets go of it.

Everything but `vocabulary` is for one thread only, the one that opened the backend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from services.engine.backends.errors import BackendError
from services.engine.core import ModelInfo, TextPiece

Ints = NDArray[np.int32]
Logits = NDArray[np.float32]
OnProgress = Callable[[float], None]


class Outcome(Enum):
    """How a step went, short of an error."""

    OK = "ok"
    KV_FULL = "kv full"  # nothing was computed and nothing changed


@dataclass(slots=True, eq=False)
class Step:
    """One forward pass: parallel arrays, one entry per token, `size` of them in use.

    Allocated once at the backend's `max_tokens`; the loop fills slices, so that no token costs an
    object. Tokens of one sequence are in order and continue it without a gap.
    """

    tokens: Ints
    positions: Ints
    sequences: Ints
    wants_logits: NDArray[np.int8]
    size: int = 0

    @classmethod
    def with_capacity(cls, capacity: int) -> Step:
        """An empty step for at most so many tokens."""
        return cls(
            tokens=np.zeros(capacity, np.int32),
            positions=np.zeros(capacity, np.int32),
            sequences=np.zeros(capacity, np.int32),
            wants_logits=np.zeros(capacity, np.int8),
        )


class Vocabulary(Protocol):
    """Text to tokens and back. Immutable once loaded: any thread may use it."""

    @property
    def size(self) -> int:
        """Tokens there are; ids are 0 to size - 1."""

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """The tokens that end an answer, ascending."""

    @property
    def native(self) -> Any | None:
        """llama.cpp's own vocabulary, for libraries that read it directly; None elsewhere."""

    def tokenize(self, pieces: Sequence[TextPiece], *, add_special: bool) -> list[int]:
        """The ids of the joined pieces; no part of a literal piece becomes a control token."""

    def piece(self, token: int) -> bytes:
        """A token's bytes, control text included; empty for end tokens."""

    def is_end(self, token: int) -> bool:
        """Whether the token ends an answer."""


class Backend(Protocol):
    """One loaded model and its context."""

    @property
    def info(self) -> ModelInfo:
        """What loading taught us."""

    @property
    def vocabulary(self) -> Vocabulary:
        """For any thread, until `close`."""

    @property
    def step(self) -> Step:
        """The one step to fill and run; its arrays stay the same."""

    @property
    def cells(self) -> int:
        """Tokens the memory holds in all."""

    @property
    def sequence_id_count(self) -> int:
        """Sequence ids are 0 to this - 1."""

    @property
    def max_outputs(self) -> int:
        """Tokens of one step that may want logits."""

    def run(self) -> Outcome:
        """Compute `step`. Returns when the numbers are there.

        Raises BackendError when the computation failed.
        """

    def logits(self, output: int) -> Logits:
        """The logits of the step's `output`-th token that wanted them; valid until the next run."""

    def share(self, source: int, target: int, end: int) -> None:
        """Let `target`, which is empty, begin with the first `end` tokens of `source`.

        A recurrent memory has the state at its present length only: there, either `end` is all
        that `source` holds, or `restore` of a checkpoint taken at `end` must follow.
        """

    def cut(self, sequence: int, start: int) -> None:
        """Forget the tokens from position `start` on. Raises BackendError where memory cannot."""

    def drop(self, sequence: int) -> None:
        """Forget a sequence. Dropping an empty one is fine."""

    def checkpoint(self, sequence: int) -> bytes:
        """What memory holds beside the shareable cells at the sequence's present length."""

    def restore(self, sequence: int, checkpoint: bytes) -> None:
        """Put back what was taken at exactly the length the sequence has by `share` now.

        Raises BackendError when it does not fit.
        """

    def close(self) -> None:
        """Free everything. Safe to call twice."""


def computed_row(rows: NDArray[np.float32], computed: int, output: int) -> Logits:
    """Row `output` of the first `computed` rows. Raises BackendError for any other row."""
    if not 0 <= output < computed:
        raise BackendError(f"output {output} of {computed} was not computed")
    row: Logits = rows[output]
    return row
