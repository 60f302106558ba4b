from __future__ import annotations

import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.parsing.holdback import MAX_HELD_SPACES, Markers, count_held_spaces
from services.api.parsing.json_copy import run_to_end
from services.api.parsing.text_source import TextSource

MARKERS = Markers(["<tool_call>", "<|x|>", "[A]"])


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("", 0),
        ("plain", 0),
        ("a <", 1),
        ("a <tool_c", 7),
        ("<<|", 2),
        ("<tool_cx", 0),
        ("<tool_<", 1),
        ("[", 1),
        ("[A", 2),
        ("[[", 1),
    ],
)
def test_the_longest_end_that_may_become_a_marker_is_held(text: str, held: int) -> None:
    assert MARKERS.count_held(text) == held


def test_what_was_read_already_is_not_held() -> None:
    assert MARKERS.count_held("a <tool", start=5) == 0
    assert MARKERS.search("<|x|> <|x|>", 1) is not None


def test_a_marker_inside_another_is_refused() -> None:
    with pytest.raises(AssertionError):
        Markers(["[A]", "x[A]"])


@given(st.text(alphabet="<|x>tool_call[A]", max_size=30))
def test_no_longer_end_would_do(text: str) -> None:
    if MARKERS.search(text) is None:
        texts = ["<tool_call>", "<|x|>", "[A]"]
        ends = [n for n in range(len(text) + 1) for m in texts if n and m.startswith(text[-n:])]
        assert MARKERS.count_held(text) == max(ends, default=0)


def test_a_marker_that_is_too_far_is_not_looked_for() -> None:
    looked_at: list[int] = []

    class Noting(Markers):
        def search(self, text: str, start: int = 0, end: int = sys.maxsize) -> re.Match[str] | None:
            looked_at.append(min(end, len(text)) - start)
            return super().search(text, start, end)

    source = TextSource()
    source.push("[" * 10_000 + "]")
    for marker, found in (("]", ("", "")), ("[[[", ("", "[[["))):
        assert run_to_end(source.peek_until(Noting([marker]), 50)) == found

    assert looked_at == [51, 53]


def test_much_white_space_is_not_held() -> None:
    assert count_held_spaces("a \n") == 2
    assert count_held_spaces("a" + " " * 500) == MAX_HELD_SPACES
