"""Searching for thousands of tokens finds what trying each of them would find."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from services.shared.token_search import compile_search, has_overlap, may_overlap

TOKEN = st.text("<a|>", min_size=1, max_size=4)
GEMMA = ["<bos>", "<eos>", "<start_of_turn>", *(f"<unused{number}>" for number in range(6242))]


@given(st.lists(TOKEN, min_size=1, max_size=8), st.text("<a|>x", max_size=20))
def test_the_search_is_that_of_the_longest_token(tokens: list[str], text: str) -> None:
    longest_first = sorted(tokens, key=len, reverse=True)
    expected = re.compile("|".join(map(re.escape, longest_first)))

    search = compile_search(tokens)
    assert search is not None
    assert [m.span() for m in search.finditer(text)] == [m.span() for m in expected.finditer(text)]


def test_no_tokens_are_no_search() -> None:
    assert compile_search([]) is None
    assert compile_search([""]) is None


def test_a_place_costs_as_many_steps_as_characters_match() -> None:
    search = compile_search(GEMMA)

    assert search is not None
    # One alternative for each next character, not one for each token.
    assert max(len(group.split("|")) for group in re.split(r"[()]", search.pattern)) <= 26
    assert search.search("<" * (1 << 20)) is None
    assert search.fullmatch("<unused6241>")


@given(st.lists(TOKEN, min_size=1, max_size=5, unique=True))
def test_tokens_that_share_characters_are_recognised(tokens: list[str]) -> None:
    def overlaps(left: str, right: str) -> bool:
        inside = left != right and left in right
        return inside or any(
            left[start:] == right[: len(left) - start] for start in range(1, len(left))
        )

    expected = any(overlaps(left, right) for left in tokens for right in tokens)
    assert may_overlap(tokens) is expected


def test_a_token_across_the_edge_of_another_is_an_overlap() -> None:
    search = compile_search(["<a>", "<a>x", "b<a>"])
    assert search is not None

    assert has_overlap(search, ["", "x"], ["", "<a>"])
    assert has_overlap(search, ["b", ""], ["", "<a>"])
    assert not has_overlap(search, ["c", "c"], ["", "<a>"])
