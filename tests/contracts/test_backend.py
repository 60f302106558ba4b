"""The contract of backends (services/engine/backends/base.py): steps, logits, vocabulary.

What a backend does with its memory is in test_backend_memory.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from services.engine.backends import estimate, open_backend
from services.engine.backends.base import Backend, Outcome
from services.engine.backends.errors import BackendError
from services.engine.core import LoadConfig, TextPiece
from tests.conftest import TINY_GGUF
from tests.contracts.computing import CELLS, PROMPT, Row, append, assert_same, drop_all, run
from tests.contracts.kinds import build_config, get_policy, get_tolerance


@pytest.fixture(scope="module")
def config(
    kind: str, tmp_path_factory: pytest.TempPathFactory, synthetic_model: Callable[[str], Path]
) -> LoadConfig:
    return build_config(
        kind,
        tmp_path_factory.mktemp("backend"),
        synthetic_model,
        context_length=CELLS,
        max_sequences=4,
        batch_tokens=64,
    )


@pytest.fixture(scope="module")
def opened(config: LoadConfig) -> Iterator[Backend]:
    backend = open_backend(config, lambda _: None)
    yield backend
    backend.close()
    backend.close()


@pytest.fixture
def backend(opened: Backend) -> Iterator[Backend]:
    yield opened
    drop_all(opened)


def test_info_describes_the_loaded_model(backend: Backend, kind: str) -> None:
    info = backend.info

    assert info.memory_policy is get_policy(kind)
    assert info.context_length == CELLS
    assert info.vocab_size == backend.vocabulary.size
    assert min(info.weights_bytes, info.kv_bytes, info.compute_bytes) > 0
    assert backend.cells >= CELLS
    assert backend.sequence_id_count >= info.max_sequences
    assert backend.max_outputs > backend.sequence_id_count


def test_a_dry_run_gives_the_same_info(backend: Backend, config: LoadConfig) -> None:
    info = estimate(config)

    if config.devices:  # a dry run places buffers like the layers, see sizes.py
        assert sum(info.pool_bytes.values()) == sum(backend.info.pool_bytes.values())
        info = msgspec.structs.replace(info, pool_bytes=backend.info.pool_bytes)
    assert info == backend.info


def test_a_sequence_computes_the_same_alone_and_in_a_batch(backend: Backend, kind: str) -> None:
    alone = append(backend, 0, PROMPT[:9])
    append(backend, 1, PROMPT[:3])
    rows = [
        *[(token, 1, False) for token in PROMPT[3:8]],
        (PROMPT[8], 1, True),
        *[(token, 2, i == 5) for i, token in enumerate(reversed(PROMPT[:6]))],
    ]
    assert run(backend, rows) is Outcome.OK

    assert_same(backend.logits(0), alone, get_tolerance(kind))


def test_logits_that_were_not_requested_raise_an_error(backend: Backend) -> None:
    append(backend, 0, PROMPT[:3])

    for output in (-1, 1):
        with pytest.raises(BackendError):
            backend.logits(output)


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([], id="empty step"),
        pytest.param([(1 << 20, 0, True)], id="token out of range"),
        pytest.param([(65, 99, True)], id="sequence out of range"),
        pytest.param([(65, -1, True)], id="sequence below the range"),
    ],
)
def test_an_invalid_step_raises_an_error_instead_of_aborting(
    backend: Backend, rows: list[Row]
) -> None:
    with pytest.raises(BackendError):
        run(backend, rows)


def test_an_invalid_step_changes_nothing(backend: Backend, kind: str) -> None:
    expected = append(backend, 1, PROMPT)
    append(backend, 0, PROMPT[:20])

    with pytest.raises(BackendError):
        run(backend, [(PROMPT[20], 0, False), (1 << 20, 2, True)])

    assert_same(append(backend, 0, PROMPT[20:]), expected, get_tolerance(kind))


def test_more_tokens_than_a_step_holds_raise_an_error(backend: Backend) -> None:
    backend.step.size = len(backend.step.tokens) + 1

    with pytest.raises(BackendError):
        backend.run()


def test_every_output_has_its_own_row(backend: Backend, kind: str) -> None:
    assert run(backend, [(token, 0, True) for token in PROMPT[:12]]) is Outcome.OK
    together = [backend.logits(i).copy() for i in range(12)]

    assert_same(together[4], append(backend, 1, PROMPT[:5]), get_tolerance(kind))
    assert_same(together[11], append(backend, 2, PROMPT[:12]), get_tolerance(kind))


class TestVocabulary:
    def test_tokens_give_the_text_back(self, backend: Backend) -> None:
        vocabulary = backend.vocabulary
        ids = vocabulary.tokenize([TextPiece("Grüße, 世界")], add_special=False)

        text = b"".join(map(vocabulary.piece, ids)).decode()
        assert text.strip() == "Grüße, 世界"
        assert all(0 <= token < vocabulary.size for token in ids)

    def test_adjacent_plain_pieces_are_tokenized_as_one_text(self, backend: Backend) -> None:
        tokenize = backend.vocabulary.tokenize

        assert tokenize(
            [TextPiece("Hel"), TextPiece("lo wor"), TextPiece("ld")], add_special=True
        ) == (tokenize([TextPiece("Hello world")], add_special=True))

    def test_end_tokens_have_no_bytes(self, backend: Backend) -> None:
        vocabulary = backend.vocabulary

        assert vocabulary.end_tokens
        for token in vocabulary.end_tokens:
            assert vocabulary.piece(token) == b""
            assert vocabulary.read_piece(token) != b""
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


def test_no_token_spans_two_literal_pieces() -> None:
    backend = open_backend(
        LoadConfig(model_path=str(TINY_GGUF), backend="llamacpp", context_length=256),
        lambda _: None,
    )
    tokenize = backend.vocabulary.tokenize
    whole = [TextPiece("<tool_call>", literal=True)]  # a user-defined token
    halves = [TextPiece("<tool", literal=True), TextPiece("_call>", literal=True)]

    (token,) = tokenize(whole, add_special=False)

    assert token not in tokenize(halves, add_special=False)
    assert b"".join(map(backend.vocabulary.piece, tokenize(halves, add_special=False))) == (
        b"<tool_call>"
    )
    backend.close()
