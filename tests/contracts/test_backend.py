"""The contract of backends (services/engine/backends/base.py), on real models and on the fake."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from services.engine.backends import estimate, open_backend
from services.engine.backends.base import Backend, Logits, Outcome
from services.engine.backends.errors import BackendError
from services.engine.backends.fake_behaviour import Behaviour
from services.engine.core import LoadConfig, MemoryPolicy, TextPiece
from tests.conftest import TINY_GGUF

KINDS = [
    "fake dense",
    "fake window",
    "fake recurrent",
    "tiny-f16",
    "tiny-window",
    "tiny-recurrent",
    "tiny-hybrid",
]
POLICIES = {
    "fake dense": MemoryPolicy.DENSE,
    "fake window": MemoryPolicy.WINDOW,
    "fake recurrent": MemoryPolicy.RECURRENT,
    "tiny-f16": MemoryPolicy.DENSE,
    "tiny-window": MemoryPolicy.WINDOW,
    "tiny-recurrent": MemoryPolicy.RECURRENT,
    "tiny-hybrid": MemoryPolicy.RECURRENT,
}
CELLS = 256
PROMPT = list(b"the quick brown fox jumps over it")


def build_config(kind: str, folder: Path, synthetic: Callable[[str], Path]) -> LoadConfig:
    if kind.startswith("fake"):
        path = folder / f"{kind}.json"
        path.write_bytes(msgspec.json.encode(Behaviour(memory_policy=POLICIES[kind])))
    else:
        path = TINY_GGUF if kind == "tiny-f16" else synthetic(kind)
    return LoadConfig(
        model_path=str(path),
        backend="fake" if kind.startswith("fake") else "llamacpp",
        context_length=CELLS,
        max_sequences=4,
        batch_tokens=64,
        threads=1,
    )


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def config(
    kind: str, tmp_path_factory: pytest.TempPathFactory, synthetic_model: Callable[[str], Path]
) -> LoadConfig:
    return build_config(kind, tmp_path_factory.mktemp("backend"), synthetic_model)


@pytest.fixture(scope="module")
def opened(config: LoadConfig) -> Iterator[Backend]:
    backend = open_backend(config, lambda _: None)
    yield backend
    backend.close()
    backend.close()


@pytest.fixture
def backend(opened: Backend) -> Iterator[Backend]:
    yield opened
    for sequence in range(opened.sequence_id_count):
        opened.drop(sequence)


Row = tuple[int, int, int, bool]  # token, position, sequence, wants logits


def run(backend: Backend, rows: list[Row]) -> Outcome:
    step = backend.step
    step.size = len(rows)
    if rows:
        step.tokens[: step.size] = [row[0] for row in rows]
        step.positions[: step.size] = [row[1] for row in rows]
        step.sequences[: step.size] = [row[2] for row in rows]
        step.wants_logits[: step.size] = [row[3] for row in rows]
    return backend.run()


def append(backend: Backend, sequence: int, tokens: list[int], start: int = 0) -> Logits:
    """Compute tokens of one sequence; returns a copy of the logits after the last one."""
    last = len(tokens) - 1
    rows = [(token, start + i, sequence, i == last) for i, token in enumerate(tokens)]
    assert run(backend, rows) is Outcome.OK
    return backend.logits(0).copy()


def append_in_chunks(backend: Backend, sequence: int, tokens: list[int]) -> None:
    """Compute the tokens of a sequence from its beginning, as many per step as a step holds."""
    size = len(backend.step.tokens)
    for start in range(0, len(tokens), size):
        append(backend, sequence, tokens[start : start + size], start=start)


def assert_same(one: Logits, other: Logits) -> None:
    np.testing.assert_allclose(one, other, atol=2e-2, rtol=0)
    assert one.argmax() == other.argmax()


def test_info_describes_the_loaded_model(backend: Backend, kind: str) -> None:
    info = backend.info

    assert info.memory_policy is POLICIES[kind]
    assert info.context_length == CELLS
    assert info.vocab_size == backend.vocabulary.size
    assert min(info.weights_bytes, info.kv_bytes, info.compute_bytes) > 0
    assert backend.cells >= CELLS
    assert backend.sequence_id_count > info.max_sequences
    assert backend.max_outputs > backend.sequence_id_count


def test_a_dry_run_gives_the_same_info(backend: Backend, config: LoadConfig) -> None:
    assert estimate(config) == backend.info


def test_a_sequence_computes_the_same_alone_and_in_a_batch(backend: Backend) -> None:
    alone = append(backend, 0, PROMPT[:9])
    rows = [
        *[(token, i, 1, False) for i, token in enumerate(PROMPT[:8])],
        *[(token, i, 2, i == 5) for i, token in enumerate(reversed(PROMPT[:6]))],
        (PROMPT[8], 8, 1, True),
    ]
    assert run(backend, rows) is Outcome.OK

    assert_same(backend.logits(1), alone)


def test_a_whole_shared_sequence_continues_like_a_computed_one(backend: Backend) -> None:
    expected = append(backend, 0, PROMPT)
    append(backend, 1, PROMPT[:20])
    backend.share(1, 2, 20)

    assert_same(append(backend, 2, PROMPT[20:], start=20), expected)
    assert_same(append(backend, 1, PROMPT[20:], start=20), expected)


def test_a_shared_prefix_continues_like_a_computed_one(backend: Backend) -> None:
    expected = append(backend, 0, PROMPT)
    append(backend, 1, PROMPT[:20])
    checkpoint = backend.checkpoint(1)
    append(backend, 1, PROMPT[:7], start=20)

    backend.share(1, 2, 20)
    if backend.info.memory_policy is MemoryPolicy.RECURRENT:
        backend.restore(2, checkpoint)

    assert_same(append(backend, 2, PROMPT[20:], start=20), expected)


def test_a_prefix_whose_window_is_intact_continues_like_a_computed_one(backend: Backend) -> None:
    """Another sequence takes cells before a sliding window: from a hole it runs on into them."""
    if backend.info.memory_policy is MemoryPolicy.RECURRENT:
        pytest.skip("a recurrent memory shares no prefixes")
    window = backend.info.window
    long = [*PROMPT, *PROMPT[::-1], *PROMPT, *PROMPT, *PROMPT[::-1], *PROMPT, *PROMPT[:8]]
    append(backend, 0, PROMPT)
    append_in_chunks(backend, 1, long)
    backend.drop(0)  # leaves the hole
    append(backend, 2, [65] * 48)
    backend.drop(2)

    first = backend.first_position(1)
    end = first + window if first else 150
    assert (first > 0) == (window > 0)
    backend.share(1, 3, end)
    assert backend.first_position(3) == first
    shared = append(backend, 3, PROMPT[:9], start=end)
    for sequence in range(backend.sequence_id_count):
        backend.drop(sequence)
    append_in_chunks(backend, 0, long[:end])

    assert_same(shared, append(backend, 0, PROMPT[:9], start=end))


def test_sharing_does_not_change_the_source(backend: Backend) -> None:
    expected = append(backend, 0, PROMPT)
    append(backend, 1, PROMPT[:20])
    backend.share(1, 2, 20)
    append(backend, 2, PROMPT[:9], start=20)
    backend.drop(2)

    assert_same(append(backend, 1, PROMPT[20:], start=20), expected)


def test_cutting_forgets_exactly_the_end(backend: Backend) -> None:
    append(backend, 1, PROMPT)
    if backend.info.memory_policy is MemoryPolicy.RECURRENT:
        with pytest.raises(BackendError):
            backend.cut(1, 20)
        return
    expected = append(backend, 0, PROMPT)

    backend.cut(1, 20)

    assert_same(append(backend, 1, PROMPT[20:], start=20), expected)


def test_a_dropped_sequence_can_be_computed_again(backend: Backend) -> None:
    expected = append(backend, 0, PROMPT)
    append(backend, 1, PROMPT[5:])
    backend.drop(1)
    backend.drop(1)

    assert_same(append(backend, 1, PROMPT), expected)


def test_a_step_without_room_returns_kv_full_and_changes_nothing(backend: Backend) -> None:
    if backend.cells > CELLS:
        pytest.skip("a purely recurrent memory has no cells to fill")
    expected = append(backend, 0, PROMPT)
    backend.drop(0)
    append(backend, 0, PROMPT[:20])
    position = 0
    while position + 32 <= CELLS - 20:
        append(backend, 1, [65] * 32, start=position)
        position += 32

    rows = [(token, 20 + i, 0, False) for i, token in enumerate(PROMPT[20:])]
    assert run(backend, rows) is Outcome.KV_FULL
    backend.drop(1)

    assert_same(append(backend, 0, PROMPT[20:], start=20), expected)


def test_shared_cells_are_counted_once(backend: Backend) -> None:
    if backend.cells > CELLS:
        pytest.skip("a purely recurrent memory has no cells to fill")
    for position in range(0, 192, 64):
        append(backend, 0, [65] * 64, start=position)
    for target in (1, 2, 3):
        backend.share(0, target, 192)

    append(backend, 3, [66] * 60, start=192)


def test_logits_that_were_not_requested_raise_an_error(backend: Backend) -> None:
    append(backend, 0, PROMPT[:3])

    for output in (-1, 1):
        with pytest.raises(BackendError):
            backend.logits(output)


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([], id="empty step"),
        pytest.param([(65, 0, 0, False), (65, 2, 0, True)], id="gap between positions"),
        pytest.param([(1 << 20, 0, 0, True)], id="token out of range"),
        pytest.param([(65, 0, 99, True)], id="sequence out of range"),
    ],
)
def test_an_invalid_step_raises_an_error_instead_of_aborting(
    backend: Backend, rows: list[Row]
) -> None:
    with pytest.raises(BackendError):
        run(backend, rows)


def test_more_tokens_than_a_step_holds_raise_an_error(backend: Backend) -> None:
    backend.step.size = len(backend.step.tokens) + 1

    with pytest.raises(BackendError):
        backend.run()


def test_every_output_has_its_own_row(backend: Backend) -> None:
    rows = [(token, i, 0, True) for i, token in enumerate(PROMPT[:12])]
    assert run(backend, rows) is Outcome.OK
    together = [backend.logits(i).copy() for i in range(12)]

    assert_same(together[4], append(backend, 1, PROMPT[:5]))
    assert_same(together[11], append(backend, 2, PROMPT[:12]))


class TestVocabulary:
    def test_tokens_give_the_text_back(self, backend: Backend) -> None:
        vocabulary = backend.vocabulary
        ids = vocabulary.tokenize([TextPiece("Grüße, 世界")], add_special=False)

        text = b"".join(map(vocabulary.piece, ids)).decode()
        assert text.strip() == "Grüße, 世界"
        assert all(0 <= token < vocabulary.size for token in ids)

    def test_adjacent_pieces_of_one_kind_are_tokenized_as_one_text(self, backend: Backend) -> None:
        tokenize = backend.vocabulary.tokenize

        assert tokenize(
            [TextPiece("Hel"), TextPiece("lo wor"), TextPiece("ld")], add_special=True
        ) == (tokenize([TextPiece("Hello world")], add_special=True))

    def test_end_tokens_have_no_bytes(self, backend: Backend) -> None:
        vocabulary = backend.vocabulary

        assert vocabulary.end_tokens
        for token in vocabulary.end_tokens:
            assert vocabulary.piece(token) == b""
        assert PROMPT[0] not in vocabulary.end_tokens

    def test_an_empty_text_has_no_tokens(self, backend: Backend) -> None:
        assert backend.vocabulary.tokenize([TextPiece("")], add_special=False) == []


def test_control_text_in_a_literal_piece_stays_text() -> None:
    backend = open_backend(
        LoadConfig(model_path=str(TINY_GGUF), backend="llamacpp", context_length=256),
        lambda _: None,
    )
    tokenize = backend.vocabulary.tokenize
    end = tokenize([TextPiece("<|im_end|>")], add_special=False)

    ids = tokenize([TextPiece("a"), TextPiece("<|im_end|>", literal=True)], add_special=False)

    assert len(end) == 1
    assert end[0] not in ids
    assert b"".join(map(backend.vocabulary.piece, ids)) == b"a<|im_end|>"
    backend.close()
