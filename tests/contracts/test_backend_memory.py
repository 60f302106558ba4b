"""The contract of backends (services/engine/backends/base.py): what they do with their memory."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.engine.backends import open_backend
from services.engine.backends.base import Backend, Outcome
from services.engine.backends.errors import BackendError
from services.engine.core import MemoryPolicy
from tests.contracts.computing import (
    CELLS,
    PROMPT,
    append,
    assert_same,
    compute_fresh,
    drop_all,
    run,
)
from tests.contracts.kinds import build_config, get_tolerance

ROUNDS = 40
NEXT = PROMPT[20:]


@pytest.fixture(scope="module")
def opened(
    kind: str, tmp_path_factory: pytest.TempPathFactory, synthetic_model: Callable[[str], Path]
) -> Iterator[Backend]:
    folder = tmp_path_factory.mktemp("backend")
    config = build_config(
        kind, folder, synthetic_model, context_length=CELLS, max_sequences=8, batch_tokens=64
    )
    backend = open_backend(config, lambda _: None)
    yield backend
    backend.close()


@pytest.fixture
def backend(opened: Backend) -> Iterator[Backend]:
    yield opened
    drop_all(opened)


@pytest.fixture
def tolerance(kind: str) -> float:
    return get_tolerance(kind)


def is_recurrent(backend: Backend) -> bool:
    return backend.info.memory_policy is MemoryPolicy.RECURRENT


def skip_without_cells(backend: Backend) -> None:
    if backend.cells > CELLS:
        pytest.skip("no cells that several sequences could fill")


def test_a_whole_shared_sequence_continues_like_a_computed_one(
    backend: Backend, tolerance: float
) -> None:
    expected = compute_fresh(backend, PROMPT)
    append(backend, 1, PROMPT[:20])
    backend.share(1, 2, 20)

    assert_same(append(backend, 2, NEXT), expected, tolerance)
    assert_same(append(backend, 1, NEXT), expected, tolerance)


def test_a_shared_prefix_continues_like_a_computed_one(backend: Backend, tolerance: float) -> None:
    expected = compute_fresh(backend, PROMPT)
    append(backend, 1, PROMPT[:20])
    state = backend.save(1, 20, 20) if is_recurrent(backend) else None
    append(backend, 1, PROMPT[:7])

    backend.share(1, 2, 20)
    if state is not None:
        assert backend.load(2, 20, state)

    assert_same(append(backend, 2, NEXT), expected, tolerance)


def test_only_a_recurrent_memory_takes_checkpoints(backend: Backend) -> None:
    assert backend.takes_checkpoints == is_recurrent(backend)


def test_a_prefix_whose_window_is_intact_continues_like_a_computed_one(
    backend: Backend, tolerance: float
) -> None:
    """Another sequence takes cells before a sliding window: from a hole it runs on into them."""
    if is_recurrent(backend):
        pytest.skip("a recurrent memory shares no prefixes")
    window = backend.info.window
    long = [*PROMPT, *PROMPT[::-1], *PROMPT, *PROMPT, *PROMPT[::-1], *PROMPT, *PROMPT[:8]]
    append(backend, 0, PROMPT)
    append(backend, 1, long)
    backend.drop(0)  # leaves the hole
    append(backend, 2, [65] * 48)
    backend.drop(2)

    first = backend.first_position(1)
    end = first + window if first else 150
    assert (first > 0) == (window > 0 and backend.shares_cells)
    backend.share(1, 3, end)
    assert backend.first_position(3) == first
    shared = append(backend, 3, PROMPT[:9])

    assert_same(shared, compute_fresh(backend, [*long[:end], *PROMPT[:9]]), tolerance)


def test_sharing_does_not_change_the_source(backend: Backend, tolerance: float) -> None:
    expected = compute_fresh(backend, PROMPT)
    append(backend, 1, PROMPT[:20])
    backend.share(1, 2, 20)
    append(backend, 2, PROMPT[:9])
    backend.drop(2)

    assert_same(append(backend, 1, NEXT), expected, tolerance)


def test_cutting_forgets_exactly_the_end(backend: Backend, tolerance: float) -> None:
    append(backend, 1, PROMPT)
    if is_recurrent(backend):
        with pytest.raises(BackendError):
            backend.cut(1, 20)
        return

    backend.cut(1, 20)

    again = append(backend, 1, NEXT)
    assert_same(again, compute_fresh(backend, PROMPT), tolerance)


def test_a_dropped_sequence_can_be_computed_again(backend: Backend, tolerance: float) -> None:
    expected = compute_fresh(backend, PROMPT)
    append(backend, 1, PROMPT[5:])
    backend.drop(1)
    backend.drop(1)

    assert_same(append(backend, 1, PROMPT), expected, tolerance)


def test_a_step_without_room_returns_kv_full_and_changes_nothing(
    backend: Backend, tolerance: float
) -> None:
    skip_without_cells(backend)
    expected = compute_fresh(backend, PROMPT)
    append(backend, 0, PROMPT[:20])
    for _ in range((CELLS - 20) // 32):
        append(backend, 1, [65] * 32)

    assert run(backend, [(token, 0, False) for token in NEXT]) is Outcome.KV_FULL
    backend.drop(1)

    assert_same(append(backend, 0, NEXT), expected, tolerance)


def test_shared_cells_are_counted_once(backend: Backend) -> None:
    skip_without_cells(backend)
    append(backend, 0, [65] * 192)
    for target in (1, 2, 3):
        backend.share(0, target, 192)

    append(backend, 3, [66] * 60)


def test_a_saved_sequence_continues_like_the_computed_one(
    backend: Backend, tolerance: float
) -> None:
    """Saved as a whole, dropped, and loaded into another sequence while cells have holes."""
    expected = compute_fresh(backend, PROMPT)
    make_holes(backend)
    append(backend, 1, PROMPT[:20])
    state = backend.save(1, 0, 20)
    assert_same(append(backend, 1, NEXT), expected, tolerance)
    backend.drop(1)

    assert backend.load(2, 0, state)

    assert_same(append(backend, 2, NEXT), expected, tolerance)


def test_what_was_shared_is_saved_as_it_will_be(backend: Backend, tolerance: float) -> None:
    """Where sharing copies, the cells are copied by the next step; a state must not miss them."""
    expected = compute_fresh(backend, PROMPT)
    append(backend, 1, PROMPT[:20])
    backend.share(1, 2, 20)
    if not backend.shares_cells:
        with pytest.raises(BackendError, match="next step"):
            backend.save(2, 0, 20)
        with pytest.raises(BackendError, match="next step"):
            backend.load(3, 0, b"")
        append(backend, 4, [65])

    assert backend.load(3, 0, backend.save(2, 0, 20))
    assert_same(append(backend, 3, NEXT), expected, tolerance)


def test_a_dense_memory_of_shared_cells_saves_and_loads_any_part(
    backend: Backend, tolerance: float
) -> None:
    """The parts of one sequence make another one, and its beginning may be shared instead."""
    append(backend, 1, PROMPT)
    if backend.info.memory_policy is not MemoryPolicy.DENSE or not backend.shares_cells:
        with pytest.raises(BackendError):
            backend.save(1, 0, 20)
        return
    expected = compute_fresh(backend, PROMPT)
    make_holes(backend)
    append(backend, 1, PROMPT[:30])
    parts = [(start, backend.save(1, start, end)) for start, end in ((0, 8), (8, 20), (20, 30))]

    for start, state in parts:
        assert backend.load(2, start, state)
    backend.share(1, 6, 20)
    backend.drop(1)
    assert backend.load(6, 20, memoryview(parts[2][1]))

    assert_same(append(backend, 2, PROMPT[30:]), expected, tolerance)
    assert_same(append(backend, 6, PROMPT[30:]), expected, tolerance)


def test_a_state_that_does_not_fit_is_refused_and_costs_only_its_sequence(
    backend: Backend, tolerance: float
) -> None:
    expected = compute_fresh(backend, PROMPT)
    append(backend, 1, PROMPT[:20])
    state = backend.save(1, 0, 20)
    if backend.cells == CELLS:
        append(backend, 2, [65] * (CELLS - 30))
        assert not backend.load(3, 0, state)  # no room
        backend.drop(2)
    assert not backend.load(3, 0, state[: len(state) // 2])

    assert_same(append(backend, 3, PROMPT), expected, tolerance)
    assert_same(append(backend, 1, NEXT), expected, tolerance)


def test_states_are_for_the_length_at_which_they_were_saved(backend: Backend) -> None:
    append(backend, 1, PROMPT[:20])
    state = backend.save(1, 0, 20)

    with pytest.raises(BackendError):
        backend.save(1, 0, 21)
    with pytest.raises(BackendError):
        backend.load(1, 0, state)  # it holds tokens already


def test_a_full_memory_with_holes_computes_what_an_empty_one_does(
    backend: Backend, tolerance: float
) -> None:
    """Sequences of random lengths come, branch, are saved, loaded and go, always near the limit.

    What is left at the end must compute as it does alone. A window may be lost; that is asked
    for, as the sequence pool does.
    """
    skip_without_cells(backend)
    draw = random.Random(5)
    texts: dict[int, list[int]] = {}
    checked = 0
    for _ in range(ROUNDS):
        sequence = draw.randrange(6)
        backend.drop(sequence)
        texts.pop(sequence, None)
        kept = [s for s in texts if backend.first_position(s) == 0]
        if kept and draw.random() < 0.5:
            source = draw.choice(kept)
            begin_from(backend, draw, texts, source, sequence)
        tail = [draw.randrange(5, 120) for _ in range(draw.randrange(1, 40))]
        rows = [(token, sequence, False) for token in tail]
        if run(backend, rows) is Outcome.KV_FULL:
            backend.drop(sequence)
            texts.pop(sequence, None)
            continue
        texts[sequence] = texts.get(sequence, []) + tail
    results = {}
    for sequence, text in texts.items():
        first = backend.first_position(sequence)
        if first and len(text) < first + backend.info.window:
            continue
        if run(backend, [(7, sequence, True)]) is Outcome.OK:
            results[sequence] = backend.logits(0).copy()
    for sequence, logits in results.items():
        assert_same(logits, compute_fresh(backend, [*texts[sequence], 7]), tolerance)
        checked += 1
    assert checked >= 2


def begin_from(
    backend: Backend,
    draw: random.Random,
    texts: dict[int, list[int]],
    source: int,
    target: int,
) -> None:
    """Begin a sequence with another one, shared or saved and loaded."""
    if source == target:
        return
    text = texts[source]
    end = len(text)
    if backend.info.memory_policy is MemoryPolicy.DENSE:
        end = draw.randrange(1, len(text) + 1)
    if draw.random() < 0.5:
        backend.share(source, target, end)
    elif not backend.load(target, 0, backend.save(source, 0, end)):
        return
    texts[target] = text[:end]


def make_holes(backend: Backend) -> None:
    """Leave free cells of a few tokens each between cells in use."""
    for sequence in (3, 4, 5):
        append(backend, sequence, [70 + sequence] * 12)
    backend.drop(4)
