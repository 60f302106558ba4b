"""Prompt lookup: drafts repeat what the text contains, and pause while they are rejected."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from services.engine.runner.stepping.drafting.prompt_lookup import PromptLookup

PASSAGE = [10, 11, 12, 13, 14, 15, 16, 17, 18, 19]


def brute_force(tokens: Sequence[int], ngram: int = 3) -> int | None:
    """Where the text continued after the latest earlier place that ends like the text does."""
    tail = list(tokens[-ngram:])
    for end in range(len(tokens) - 1, ngram - 1, -1):
        if list(tokens[end - ngram : end]) == tail:
            return end
    return None


def test_a_repeated_passage_is_proposed() -> None:
    lookup = PromptLookup()

    assert lookup.propose([*PASSAGE, 1, 2, 10, 11, 12], 8) == [13, 14]


def test_a_draft_is_no_longer_than_the_limit() -> None:
    assert PromptLookup().propose([*PASSAGE, 10, 11, 12], 1) == [13]
    assert PromptLookup().propose([*PASSAGE, 10, 11, 12], 0) == []


def test_the_latest_occurrence_is_repeated() -> None:
    assert PromptLookup().propose([1, 2, 3, 4, 1, 2, 3, 5, 6, 1, 2, 3], 2) == [5, 6]


def test_the_draft_of_a_repeating_text_repeats_too() -> None:
    lookup = PromptLookup()
    lookup.observe(2, 2)  # so the next draft is longer

    assert lookup.propose([7, 1, 2, 1, 2, 1, 2], 4) == [1, 2, 1, 2]


def test_text_without_a_repetition_gives_no_draft() -> None:
    assert PromptLookup().propose([1, 2, 3, 4, 5, 6], 4) == []
    assert PromptLookup().propose([1, 2], 4) == []
    assert PromptLookup().propose([], 4) == []


@given(
    prompt=st.integers(0, 700),
    steps=st.lists(st.integers(1, 5), max_size=40),
    vocab=st.integers(2, 6),
    seed=st.integers(0, 1000),
)
@settings(max_examples=200, deadline=None)
def test_drafts_equal_those_of_a_search_through_the_whole_text(
    prompt: int, steps: list[int], vocab: int, seed: int
) -> None:
    rng = random.Random(seed)
    lookup = PromptLookup()
    tokens = rng.choices(range(vocab), k=prompt)
    for grown in [0, *steps]:
        tokens += rng.choices(range(vocab), k=grown)

        draft = lookup.propose(tokens, 2)

        end = brute_force(tokens)
        if end is None:
            assert draft == []
        else:
            again = tokens[end:] * 3
            assert draft == again[:2]


def test_drafts_grow_while_they_are_accepted() -> None:
    lookup = PromptLookup()
    tokens = [*range(100), 0, 1, 2]
    lengths = []
    for _ in range(4):
        draft = lookup.propose(tokens, 32)
        lengths.append(len(draft))
        lookup.observe(len(draft), len(draft))
        tokens += draft

    assert lengths == [2, 4, 8, 16]


def test_drafting_pauses_after_rejected_drafts_and_tries_again() -> None:
    lookup = PromptLookup()
    tokens = [1, 2, 3] * 4
    proposed_at = []
    for _ in range(400):
        if draft := lookup.propose(tokens, 4):
            proposed_at.append(len(tokens))
            lookup.observe(len(draft), 0)
        tokens += [1, 2, 3]

    gaps = [later - earlier for earlier, later in itertools.pairwise(proposed_at)]
    assert len(proposed_at) < 20
    assert gaps[-1] >= 256
    assert proposed_at[-1] > 300


def test_drafting_continues_after_one_rejected_draft() -> None:
    lookup = PromptLookup()
    tokens = list(range(50)) * 2
    lookup.observe(4, 0)

    assert lookup.propose(tokens, 4) != []


def test_every_token_is_indexed_once() -> None:
    """Appending one token must not read the whole text again."""

    class Counting(list[int]):
        touched = 0

        def __getitem__(self, key: Any) -> Any:
            got: Any = super().__getitem__(key)
            Counting.touched += len(got) if isinstance(key, slice) else 1
            return got

    tokens = Counting(range(20_000))
    lookup = PromptLookup()
    lookup.propose(tokens, 4)
    Counting.touched = 0
    for token in range(100):
        tokens.append(token)
        lookup.propose(tokens, 4)

    assert Counting.touched < 100 * 20
