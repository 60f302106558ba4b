"""The shown text does not depend on the boundaries of tokens, and never contains a stop string."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.engine.runner.requests.detokenizer import Detokenizer


def make_text(pieces: Sequence[bytes], stops: Sequence[str] = ()) -> Detokenizer:
    """Build an answer whose token n has the bytes pieces[n]."""
    return Detokenizer(pieces.__getitem__, stops)


def shown(pieces: Sequence[bytes], stops: Sequence[str] = ()) -> tuple[list[str], str | None]:
    """What each token shows, then what finish() adds; and the stop string. Ends at a stop."""
    text = make_text(pieces, stops)
    parts = []
    for token in range(len(pieces)):
        parts.append(text.feed(token))
        if text.stop_string is not None:
            break
    return [*parts, text.finish()], text.stop_string


def decode_at_once(data: bytes, stops: Sequence[str]) -> tuple[str, str | None]:
    """The whole text, cut where the first stop string is complete."""
    text = data.decode(errors="replace")
    for end in range(len(text) + 1):
        complete = [stop for stop in stops if stop and text[:end].endswith(stop)]
        if complete:
            longest = max(complete, key=len)
            return text[: end - len(longest)], longest
    return text, None


few_letters = st.text(alphabet="abé🦙", max_size=25)
stop_strings = st.lists(st.text(alphabet="abé🦙", max_size=4), max_size=3)


def split(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


@given(text=few_letters, stops=stop_strings, cuts=st.lists(st.integers(0, 200)))
@example(text="aab", stops=["aab", "ab"], cuts=[1, 2])
@settings(max_examples=1000, deadline=None)
def test_any_split_into_tokens_shows_the_same_text(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    parts, stop_string = shown(split(text.encode(), cuts), stops)

    assert ("".join(parts), stop_string) == decode_at_once(text.encode(), stops)


@given(data=st.binary(max_size=30), cuts=st.lists(st.integers(0, 200)))
@settings(max_examples=500, deadline=None)
def test_any_split_of_any_bytes_shows_what_decoding_them_at_once_shows(
    data: bytes, cuts: list[int]
) -> None:
    parts, _ = shown(split(data, cuts))

    assert "".join(parts) == data.decode(errors="replace")


@given(text=few_letters, stops=stop_strings, cuts=st.lists(st.integers(0, 200)))
@settings(max_examples=500, deadline=None)
def test_only_a_possible_beginning_of_a_stop_string_is_held_back(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    answer = make_text(pieces := split(text.encode(), cuts), stops)
    so_far, seen = b"", ""
    for token, piece in enumerate(pieces):
        so_far += piece
        seen += answer.feed(token)
        if answer.stop_string is not None:
            return

        held = so_far.decode(errors="ignore")[len(seen) :]
        assert held == "" or any(stop.startswith(held) and stop != held for stop in stops)


def test_a_character_is_shown_with_its_last_byte() -> None:
    llama = "🦙".encode()

    assert shown([b"a" + llama[:1], llama[1:3], llama[3:] + b"b"]) == (["a", "", "🦙b", ""], None)


def test_an_incomplete_character_at_the_end_is_replaced() -> None:
    assert shown([b"a", "é".encode()[:1]]) == (["a", "", "\ufffd"], None)


def test_held_text_is_shown_when_it_does_not_become_a_stop_string() -> None:
    assert shown([b"a\n", b"Us", b"ual"], ["\nUser:"]) == (["a", "", "\nUsual", ""], None)


def test_held_text_is_shown_at_the_end() -> None:
    assert shown([b"a\nUs"], ["\nUser:"]) == (["a", "\nUs"], None)


@pytest.mark.parametrize(
    ("stops", "expected"),
    [
        (["cd", "bcde"], ("ab", "cd")),
        (["bcd", "cd"], ("a", "bcd")),
        (["cd", "bcd"], ("a", "bcd")),
        (["f", "e"], ("abcd", "e")),
        (["", "x"], ("abcdef", None)),
    ],
    ids=["first complete", "longer of two", "longer, listed last", "earlier", "empty is none"],
)
def test_the_stop_string_completed_first_wins(
    stops: list[str], expected: tuple[str, str | None]
) -> None:
    parts, stop_string = shown([b"abcdef"], stops)

    assert ("".join(parts), stop_string) == expected


def test_nothing_more_is_shown_after_a_stop_string() -> None:
    text = make_text([b"one STOP two", b" three"], ["STOP"])

    assert [text.feed(0), text.feed(1), text.finish()] == ["one ", "", ""]
    assert text.stop_string == "STOP"
