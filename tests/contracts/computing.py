"""Steps on a backend, and what they should compute."""

from __future__ import annotations

from collections.abc import Sequence

from services.engine.backends.base import Backend, Logits, Outcome

CELLS = 256
PROMPT = list(b"the quick brown fox jumps over it")

Row = tuple[int, int, bool]  # token, sequence, wants logits


def run(backend: Backend, rows: Sequence[Row]) -> Outcome:
    step = backend.step
    step.size = len(rows)
    if rows:
        step.tokens[: step.size] = [row[0] for row in rows]
        step.sequences[: step.size] = [row[1] for row in rows]
        step.wants_logits[: step.size] = [row[2] for row in rows]
    return backend.run()


def append(backend: Backend, sequence: int, tokens: Sequence[int]) -> Logits:
    """Compute tokens of one sequence; returns a copy of the logits after the last one."""
    size = len(backend.step.tokens)
    for start in range(0, len(tokens), size):
        part = tokens[start : start + size]
        rows = [(token, sequence, i == len(part) - 1) for i, token in enumerate(part)]
        assert run(backend, rows) is Outcome.OK
    return backend.logits(0).copy()


def compute_fresh(backend: Backend, tokens: Sequence[int]) -> Logits:
    """The logits after these tokens in an otherwise empty memory, which is empty afterwards."""
    drop_all(backend)
    logits = append(backend, 0, tokens)
    backend.drop(0)
    return logits


def drop_all(backend: Backend) -> None:
    for sequence in range(backend.sequence_id_count):
        backend.drop(sequence)


def assert_same(one: Logits, other: Logits, tolerance: float) -> None:
    """Equal logits, up to this part of their standard deviation."""
    spread = float(other.std())
    error = float((one - other).std()) / spread
    assert error <= tolerance
    # The best token may be another one only where the two are as close as that.
    assert float(other.max() - other[int(one.argmax())]) <= 5 * tolerance * spread
