"""The tokens of an MLX folder are those that llama.cpp finds in the GGUF of the same model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.engine.backends import open_backend
from services.engine.backends.base import Vocabulary
from services.engine.backends.mlx.folder import read_end_tokens
from services.engine.backends.mlx.vocabulary import MlxVocabulary
from services.engine.core import LoadConfig, TextPiece
from tests.conftest import TINY_GGUF, TINY_MLX
from tests.engine.runner.child_runner import expected

ENDS = (1015, 1017)

TEXTS = {
    "words": "Hello there, how are you?",
    "other scripts": "Grüße, 世界 👍",
    "spaces": "  two,\n\n\ttab  end ",
    "control": "<|im_start|>user\nHi<|im_end|>\n",
    "user-defined": "a <tool_call> b</tool_call>",
    "digits": "12345 67",
}


@pytest.fixture(scope="module")
def gguf() -> Iterator[Vocabulary]:
    backend = open_backend(
        LoadConfig(model_path=str(TINY_GGUF), backend="llamacpp", context_length=256),
        lambda _: None,
    )
    yield backend.vocabulary
    backend.close()


@pytest.fixture(scope="module")
def mlx() -> Vocabulary:
    return MlxVocabulary(TINY_MLX, size=1024, end_tokens=ENDS)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("is_literal", [False, True], ids=["plain", "literal"])
def test_texts_have_the_same_tokens(
    gguf: Vocabulary, mlx: Vocabulary, text: str, is_literal: bool
) -> None:
    pieces = [TextPiece(text, literal=is_literal)]

    assert mlx.tokenize(pieces, add_special=True) == gguf.tokenize(pieces, add_special=True)


def test_the_known_prompts_have_the_same_tokens(gguf: Vocabulary, mlx: Vocabulary) -> None:
    for prompt, _ in expected().values():
        pieces = [TextPiece(prompt)]
        assert mlx.tokenize(pieces, add_special=False) == gguf.tokenize(pieces, add_special=False)


def test_pieces_are_tokenized_alike(gguf: Vocabulary, mlx: Vocabulary) -> None:
    pieces = [
        TextPiece("<|im_"),
        TextPiece("start|>user\n"),
        TextPiece("<|im_end|>", literal=True),
        TextPiece("<tool", literal=True),
        TextPiece("_call>", literal=True),
        TextPiece("<|im_end|>"),
    ]

    assert mlx.tokenize(pieces, add_special=False) == gguf.tokenize(pieces, add_special=False)


def test_tokens_have_the_same_bytes_and_ends(gguf: Vocabulary, mlx: Vocabulary) -> None:
    assert (mlx.size, mlx.end_tokens) == (gguf.size, gguf.end_tokens)
    assert [mlx.piece(i) for i in range(mlx.size)] == [gguf.piece(i) for i in range(gguf.size)]


def test_the_tokenizers_own_end_ends_answers_too() -> None:
    assert read_end_tokens(TINY_MLX, {}) == {1017}
    assert read_end_tokens(TINY_MLX, {"eos_token_id": [1015]}) == {1015, 1017}


def test_control_tokens_are_those_that_no_text_contains(mlx: Vocabulary) -> None:
    assert mlx.control_tokens == (1015, 1016, 1017)


def test_a_wider_model_has_tokens_without_text() -> None:
    wide = MlxVocabulary(TINY_MLX, size=1030, end_tokens=ENDS)

    assert wide.piece(1029) == b""
    assert 1029 in wide.control_tokens


def test_byte_tokens_of_a_text_vocabulary_are_bytes(tmp_path: Path) -> None:
    tokens = ["<unk>", "<0x0A>", "\u2581a", "\u2581", "b"]
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "byte_fallback": True,
            "fuse_unk": True,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [],
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    vocabulary = MlxVocabulary(tmp_path, size=5, end_tokens=())

    assert [vocabulary.piece(i) for i in range(1, 5)] == [b"\n", b" a", b" ", b"b"]
