"""From places in a text to its tokens, with the tokenizer of a real model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from services.engine.backends import open_backend
from services.engine.backends.base import Vocabulary
from services.engine.core import TextPiece
from services.engine.runner.requests.cut_tokens import find_cut_tokens
from tests.engine.runner.child_runner import config

SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"


@pytest.fixture(scope="module")
def vocabulary() -> Iterator[Vocabulary]:
    backend = open_backend(config(), lambda _: None)
    yield backend.vocabulary
    backend.close()


def find(
    vocabulary: Vocabulary, pieces: Sequence[TextPiece], *cuts: int
) -> tuple[list[int], tuple[int, ...]]:
    prompt = vocabulary.tokenize(pieces, add_special=False)
    found = find_cut_tokens(vocabulary, pieces, cuts, prompt, add_special=False)
    return prompt, found


@pytest.mark.parametrize("question", ["why?", "\nwhy?", " why?", "", "<|im_end|>"])
def test_prompts_are_the_same_up_to_the_cut_whatever_follows(
    vocabulary: Vocabulary, question: str
) -> None:
    alone = vocabulary.tokenize((TextPiece(SYSTEM),), add_special=False)
    prompt, (cut,) = find(vocabulary, (TextPiece(SYSTEM + question),), len(SYSTEM))

    assert len(alone) - 2 <= cut < len(alone)
    assert prompt[:cut] == alone[:cut]


def test_cuts_count_characters_of_all_pieces(vocabulary: Vocabulary) -> None:
    pieces = (TextPiece("one é two "), TextPiece("<|im_end|> three", literal=True), TextPiece("!"))
    length = len(pieces[0].text)

    prompt, cuts = find(vocabulary, pieces, length, length + 5, length + len(pieces[1].text))

    first = vocabulary.tokenize(pieces[:1], add_special=False)
    both = vocabulary.tokenize(pieces[:2], add_special=False)
    assert (cuts[0], cuts[2]) == (len(first) - 1, len(both) - 1)
    assert cuts[0] <= cuts[1] <= cuts[2] < len(prompt)


def test_a_cut_inside_a_token_is_before_it(vocabulary: Vocabulary) -> None:
    text = "The assistant answers questions about the weather"
    prompt, cuts = find(vocabulary, (TextPiece(text),), *range(1, len(text) + 1))

    ends = [len(b"".join(map(vocabulary.piece, prompt[:cut]))) for cut in cuts]
    assert all(end <= place for place, end in enumerate(ends, 1))
