"""Finds markers in a text that arrives in deltas, and how much of its end may become one."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable

SPACES = " \t\r\n"
MAX_HELD_SPACES = 64  # that may be dropped before a marker; more of them are text


class Markers:
    """A fixed set of texts to search for. None of them contains another.

    That rule makes the result independent of the deltas: a marker that is complete cannot be a
    part of a longer one that is not complete yet.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        unique = sorted(set(texts))
        assert unique
        assert all(unique)
        assert not any(a in b for a in unique for b in unique if a != b), unique
        self._search = re.compile("|".join(map(re.escape, unique)))
        self._starts = frozenset(text[0] for text in unique)
        self._prefixes = frozenset(text[:n] for text in unique for n in range(1, len(text)))
        self.longest = max(map(len, unique))

    def search(self, text: str, start: int = 0, end: int = sys.maxsize) -> re.Match[str] | None:
        """The first marker in the text from `start` to `end`."""
        return self._search.search(text, start, end)

    def count_held(self, text: str, start: int = 0) -> int:
        """The length of the longest end of `text[start:]` that could still become a marker.

        The text must not contain a marker from `start` on. Looks at fewer characters than the
        longest marker has.
        """
        for position in range(max(start, len(text) - self.longest + 1), len(text)):
            if text[position] in self._starts and text[position:] in self._prefixes:
                return len(text) - position
        return 0


def count_held_spaces(text: str) -> int:
    """How many characters of white space at the end of a text are held, as a marker may follow."""
    return min(len(text) - len(text.rstrip(SPACES)), MAX_HELD_SPACES)
