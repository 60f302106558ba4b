"""Keeps people's text apart from control tokens that a template puts together while it renders.

`'<|' + message.role + '|>'` has no mark (`control.py`). With such a template, the characters of
people's text that could be a part of such a token are replaced before rendering and restored after
it: what begins a token, and the word inside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from services.shared.templates.marks import build_mark
from services.shared.token_search import compile_search

_AROUND_WORD = re.compile(r"^\W+|\W+$")
# What templates look up in tools and calls.
_STRUCTURE = frozenset(
    {"id", "type", "text", "function", "name", "description", "parameters", "properties"}
    | {"required", "items", "enum", "arguments", "content"}
)


class Replacement:
    """Replaces texts in all strings of a JSON value."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts
        self._search = compile_search(texts)

    def apply(self, value: Any) -> Any:
        """The value with the texts replaced."""
        if self._search is None:
            return value
        if isinstance(value, str):
            return self._search.sub(lambda match: self._texts[match[0]], value)
        if isinstance(value, dict):
            return {self._apply_to_key(key): self.apply(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.apply(item) for item in value]
        return value

    def _apply_to_key(self, key: str) -> str:
        # A template must find the plain names that it looks up.
        is_looked_up = key in _STRUCTURE or (key.isidentifier() and key not in self._texts)
        return key if is_looked_up else str(self.apply(key))


class Disguise:
    """The replacement for one template, and its reverse. Does nothing for most templates."""

    def __init__(self, composed: Iterable[str], *, prefix: str, first_mark: int) -> None:
        texts = {start for token in composed for start in _find_starts(token)}
        chars = sorted({text[0] for text in texts})
        marks = {char: build_mark(prefix, first_mark + n) for n, char in enumerate(chars)}
        self._replacement = Replacement({text: marks[text[0]] + text[1:] for text in texts})
        self._reverse = Replacement({mark: char for char, mark in marks.items()})

    def apply(self, value: Any) -> Any:
        """A JSON value of a person, to render."""
        return self._replacement.apply(value)

    def undo(self, rendered: str) -> str:
        """The text that the person typed."""
        return str(self._reverse.apply(rendered))


def _find_starts(token: str) -> set[str]:
    """What of a token may come from people: all of it, or the word inside."""
    word = _AROUND_WORD.sub("", token)
    begin = token if token[0].isalnum() else token[0]
    return {begin, word} - {""}
