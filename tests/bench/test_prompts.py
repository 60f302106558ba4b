"""The requests that a measurement sends."""

from __future__ import annotations

from itertools import pairwise, takewhile

import pytest

from bench import prompts


def count_shared_words(one: str | None, other: str | None) -> int:
    """The number of words in the common prefix of two texts."""
    pairs = zip((one or "").split(), (other or "").split(), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def test_distinct_prompts_are_reproducible_and_differ_from_their_first_words() -> None:
    requests = prompts.build_distinct(50, words=20, max_tokens=3, seed=7)

    assert requests == prompts.build_distinct(50, words=20, max_tokens=3, seed=7)
    assert len({request.prompt for request in requests}) == 50
    assert count_shared_words(requests[0].prompt, requests[1].prompt) < 4
    assert not any(request.may_cache for request in requests)


def test_varied_lengths_are_reproducible_and_near_the_length_asked_for() -> None:
    requests = prompts.build_distinct(200, words=2, max_tokens=64, seed=7)

    varied = prompts.vary_lengths(requests, seed=1)

    lengths = [request.max_tokens for request in varied]
    assert varied == prompts.vary_lengths(requests, seed=1)
    assert 32 <= min(lengths) < 36
    assert 92 < max(lengths) <= 96
    assert [request.prompt for request in varied] == [request.prompt for request in requests]


def test_prompts_with_a_shared_prefix_differ_after_it() -> None:
    requests = prompts.build_shared_prefix(5, prefix_words=100, words=5, max_tokens=3, seed=7)
    texts = [request.prompt or "" for request in requests]

    assert len(set(texts)) == 5
    assert count_shared_words(texts[0], texts[1]) >= 100
    assert all(request.may_cache for request in requests)


def test_each_turn_of_a_chat_repeats_all_earlier_turns() -> None:
    turns = prompts.build_chat_turns(4, words=6, max_tokens=3, seed=2)

    assert [len(turn.messages) for turn in turns] == [2, 4, 6, 8]
    for earlier, later in pairwise(turns):
        assert later.messages[: len(earlier.messages)] == earlier.messages
    assert [role for role, _ in turns[-1].messages[:4]] == ["system", "user", "assistant", "user"]


@pytest.mark.parametrize("words", [1, 300])
def test_a_text_has_the_requested_number_of_words(words: int) -> None:
    assert len(prompts.build_text(words, 3).split()) == words
