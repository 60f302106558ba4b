"""The texts a measurement sends."""

from __future__ import annotations

from itertools import pairwise, takewhile

import pytest

from bench import prompts


def shared_words(one: str | None, other: str | None) -> int:
    """How many words two texts begin with together."""
    pairs = zip((one or "").split(), (other or "").split(), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def test_texts_are_reproducible_and_differ_from_their_first_words() -> None:
    asks = prompts.distinct(50, words=20, max_tokens=3, seed=7)

    assert asks == prompts.distinct(50, words=20, max_tokens=3, seed=7)
    assert len({ask.prompt for ask in asks}) == 50
    assert shared_words(asks[0].prompt, asks[1].prompt) < 4
    assert not any(ask.may_cache for ask in asks)


def test_texts_with_a_shared_prefix_differ_after_it() -> None:
    asks = prompts.shared_prefix(5, prefix_words=100, words=5, max_tokens=3, seed=7)
    texts = [ask.prompt or "" for ask in asks]

    assert len(set(texts)) == 5
    assert shared_words(texts[0], texts[1]) >= 100
    assert all(ask.may_cache for ask in asks)


def test_each_turn_of_a_chat_repeats_all_before_it() -> None:
    turns = prompts.chat_turns(4, words=6, max_tokens=3, seed=2)

    assert [len(turn.messages) for turn in turns] == [2, 4, 6, 8]
    for earlier, later in pairwise(turns):
        assert later.messages[: len(earlier.messages)] == earlier.messages
    assert [role for role, _ in turns[-1].messages[:4]] == ["system", "user", "assistant", "user"]


@pytest.mark.parametrize("words", [1, 300])
def test_a_text_has_the_words_asked_for(words: int) -> None:
    assert len(prompts.text(words, 3).split()) == words
