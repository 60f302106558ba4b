"""The contract between the loop of a runner and a backend.

A backend owns the weights and one context, whose memory has `cells` cells. A cell holds one token.
With `shares_cells` all sequences take their cells from one pool, and a cell may belong to several
of them. So sharing a prefix needs no further cells, and a cell is free again when the last sequence
that holds it drops it. Otherwise each sequence has an equal part of the cells for itself, and
sharing copies. The backend counts the tokens of each sequence; a step continues each of its
sequences where it ends.

Everything but `vocabulary` may be used on one thread only, the one that opened the backend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from services.engine.backends.errors import BackendError
from services.engine.core import ModelInfo, RowCosts, TextPiece

if TYPE_CHECKING:
    from services.engine.backends.pooling import PooledModel

Ints = NDArray[np.int32]
Logits = NDArray[np.float32]
OnProgress = Callable[[float], None]


class Outcome(Enum):
    """The outcome of a step that raised no error."""

    OK = "ok"
    KV_FULL = "kv full"  # nothing was computed and nothing changed


@dataclass(slots=True, eq=False)
class Step:
    """One forward pass: parallel arrays, one entry per token, `size` of them in use.

    It is allocated once, for the most tokens that the backend computes in a step. The step builder
    fills slices, so that no object is created per token. The tokens of one sequence stand together,
    in their order.
    """

    tokens: Ints
    sequences: Ints
    wants_logits: NDArray[np.int8]
    size: int = 0

    @classmethod
    def with_capacity(cls, capacity: int) -> Step:
        """Create an empty step for at most `capacity` tokens."""
        return cls(
            tokens=np.zeros(capacity, np.int32),
            sequences=np.zeros(capacity, np.int32),
            wants_logits=np.zeros(capacity, np.int8),
        )


class Vocabulary(Protocol):
    """Converts text to tokens and back. Immutable once loaded, so any thread may use it."""

    @property
    def size(self) -> int:
        """Number of tokens; ids are 0 to size - 1."""

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """The tokens that end an answer, ascending."""

    @property
    def native(self) -> Any | None:
        """llama.cpp's vocabulary, for libraries that read it directly; None for other backends."""

    @property
    def control_tokens(self) -> tuple[int, ...]:
        """Tokens that no text of a constraint contains; empty where `native` has them."""

    @property
    def infill_tokens(self) -> tuple[int, int, int] | None:
        """The tokens before a prefix, before a suffix, and before the text between them to write.

        None where the model is not trained to write it.
        """

    def tokenize(self, pieces: Sequence[TextPiece], *, add_special: bool) -> list[int]:
        """Tokenize the pieces; no part of a literal piece becomes a control token.

        No token spans the boundary of a literal piece.
        """

    def piece(self, token: int) -> bytes:
        """The bytes of a token, including the text of control tokens; empty for end tokens."""

    def read_piece(self, token: int) -> bytes:
        """The bytes of any token, also of an end token. Slower than `piece`."""


class Backend(Protocol):
    """One loaded model and its context."""

    @property
    def info(self) -> ModelInfo:
        """The facts that loading revealed."""

    @property
    def vocabulary(self) -> Vocabulary:
        """Any thread may use it, until `close`."""

    @property
    def pooled(self) -> PooledModel | None:
        """For embeddings and ranking; None where this backend computes none."""

    @property
    def step(self) -> Step:
        """The step to fill and run. It is always the same object with the same arrays."""

    @property
    def cells(self) -> int:
        """Tokens that the memory holds, over all sequences."""

    @property
    def shares_cells(self) -> bool:
        """Whether a cell may belong to several sequences."""

    @property
    def sequence_id_count(self) -> int:
        """Number of sequence ids; ids are 0 to sequence_id_count - 1."""

    @property
    def max_outputs(self) -> int:
        """Most tokens of one step that may want logits."""

    @property
    def row_costs(self) -> RowCosts:
        """What rows cost on the device that computes attention."""

    @property
    def takes_checkpoints(self) -> bool:
        """Whether a recurrent memory can continue at a length whose state was saved.

        Otherwise its sequences can be shared as a whole only. False for the other memories.
        """

    def run(self) -> Outcome:
        """Compute `step`; returns when the logits are available.

        Raises BackendError when the computation failed.
        """

    def logits(self, output: int) -> Logits:
        """The logits of the step's `output`-th token that wanted them; valid until the next run."""

    def share(self, source: int, target: int, end: int) -> None:
        """Begin `target`, which is empty, with the first `end` tokens of `source`.

        A recurrent memory has the state of its present length only. So there, either `end` is the
        length of `source`, or `load` must follow with what was saved of the empty part at `end`.
        """

    def first_position(self, sequence: int) -> int:
        """The first position whose token every layer still holds; 0 when none is lost.

        The layers with a sliding window lose positions before it, also while the sequence itself is
        idle: other sequences may take those cells in any step. The sequence, or a share of its
        first `end` tokens, continues correctly if this is 0 or at most `end` minus the window.
        """

    def cut(self, sequence: int, start: int) -> None:
        """Forget the tokens from position `start` on. Raises BackendError if memory cannot."""

    def drop(self, sequence: int) -> None:
        """Forget a sequence. Dropping an empty one is fine."""

    def save(self, sequence: int, start: int, end: int) -> bytes:
        """Copy the state of tokens [start, end), and that of the present length where there is one.

        A dense memory of shared cells saves any part. The others save a sequence as a whole, up to
        its present length; a recurrent memory also saves the empty part at its present length,
        which is the state that is not stored in cells. Raises BackendError for any other part, and
        after a `share` that copies, until the next step has done so.
        """

    def load(self, sequence: int, start: int, state: bytes | memoryview) -> bool:
        """Append a saved state to a sequence whose length is `start`, the start of what was saved.

        False where it does not fit or there is no room; the sequence is dropped then. What another
        model saved may be accepted, so the caller must know where a state comes from. Raises
        BackendError where `save` does because of copies.
        """

    def close(self) -> None:
        """Free everything. Safe to call twice."""


def computed_row(rows: NDArray[np.float32], computed: int, output: int) -> Logits:
    """Row `output` of the first `computed` rows. Raises BackendError for any other row."""
    if not 0 <= output < computed:
        raise BackendError(f"output {output} of {computed} was not computed")
    row: Logits = rows[output]
    return row
