"""A long text is cut after special tokens, and has the same tokens as in one piece."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from services.engine.backends import open_backend
from services.engine.backends.llamacpp.text_parts import PART_CHARS, SpecialTokens, cut_text
from services.engine.backends.llamacpp.vocabulary import LlamaVocabulary
from services.engine.core import TextPiece
from services.shared.token_search import compile_search
from tests.engine.runner.child_runner import config

TOKENS = ["<a>", "<a><b>", "<b>", "b><"]
PARTS = [*TOKENS, "x", " ", "\n", "<", "\u00e9"]


@pytest.fixture(scope="module")
def vocabulary() -> Iterator[LlamaVocabulary]:
    backend = open_backend(config(), lambda _: None)
    assert isinstance(backend.vocabulary, LlamaVocabulary)
    yield backend.vocabulary
    backend.close()


@pytest.mark.parametrize("seed", range(200))
def test_no_token_lies_across_a_cut(seed: int) -> None:
    choose = random.Random(seed)
    text = "".join(choose.choices(PARTS, k=60))
    search = compile_search(TOKENS)
    assert search is not None
    tokens = SpecialTokens(search, 6, frozenset({"<b>"}))
    parts = list(cut_text(text, tokens, part_chars=8))
    ends = [sum(map(len, parts[: n + 1])) for n in range(len(parts) - 1)]

    assert "".join(parts) == text
    for token in TOKENS:
        starts = [n for n in range(len(text)) if text.startswith(token, n)]
        assert not any(start < end < start + len(token) for start in starts for end in ends)
    assert all(part.rstrip().endswith(tuple(TOKENS)) for part in parts[:-1])
    after = [
        text[end : end + 1]
        for part, end in zip(parts, ends, strict=False)
        if part.endswith("<b>") and not part.endswith("<a><b>")
    ]
    assert not any(char.isspace() for char in after)


@pytest.mark.parametrize("add_special", [False, True], ids=["as it is", "with its own"])
@pytest.mark.parametrize("seed", range(5))
def test_a_long_text_has_the_tokens_that_it_has_in_one_piece(
    vocabulary: LlamaVocabulary, seed: int, add_special: bool
) -> None:
    choose = random.Random(seed)
    words = ["<|im_start|>", "<|im_end|>", "user\n", "hi", " ", "\n\n", "<|im", "end|>", "\u00e9"]
    text = "".join(choose.choices(words, k=PART_CHARS))
    whole = vocabulary._encode(text, add_special=add_special, parse=True)

    assert vocabulary.tokenize([TextPiece(text)], add_special=add_special) == whole


@pytest.mark.parametrize("blank", ["", "\n"], ids=["beside each other", "in lines"])
def test_a_text_of_very_many_control_tokens_does_not_take_hours(
    vocabulary: LlamaVocabulary, blank: str
) -> None:
    unit = f"<|im_end|>{blank}"
    once = vocabulary.tokenize([TextPiece(unit)], add_special=False)

    assert vocabulary.tokenize([TextPiece(unit * 80_000)], add_special=False) == once * 80_000
