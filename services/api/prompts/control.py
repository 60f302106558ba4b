"""Control tokens in people's text stay text.

A rendered prompt is tokenised with control tokens recognised, since the template writes its own as
text. So before rendering, every control token a person wrote is replaced by a private-use character
the conversation does not contain; after rendering, the prompt is cut at these characters, and what
they stood for becomes a literal piece, which never yields a control token. Text without control
tokens (nearly all) passes untouched, in one piece.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any

from protos import engine_pb2

# Templates look for these in what a model said earlier, to leave the thinking out.
_KEPT_IN_ANSWERS = frozenset({"<think>", "</think>"})
_PRIVATE_USE = ((0xE000, 0xF8FF), (0xF0000, 0xFFFFD))

Replace = Callable[[re.Match[str]], str]


class Disguise:
    """The private-use characters of one conversation. `texts`: all that will be in the prompt."""

    def __init__(self, control_tokens: tuple[str, ...], texts: Iterable[str]) -> None:
        self._pattern = _pattern(control_tokens)
        self._text_of: dict[str, str] = {}
        self._char_of: dict[str, str] = {}
        self._texts = texts
        self._free: Iterator[str] | None = None

    def put_on(self, message: dict[str, Any]) -> dict[str, Any]:
        """The message with its control tokens hidden, its role left alone."""
        keep = _KEPT_IN_ANSWERS if message.get("role") == "assistant" else frozenset()
        return {k: v if k == "role" else self.hide(v, keep=keep) for k, v in message.items()}

    def hide(self, value: Any, *, keep: frozenset[str] = frozenset()) -> Any:
        """Any JSON value with its control tokens hidden, keys included where they are no names."""
        if self._pattern is None:
            return value
        return _mapped(value, self._pattern, lambda match: self._char(match[0], keep))

    def marker(self) -> str:
        """A character of our own that the conversation does not contain."""
        return next(self._free_chars())

    def pieces(self, rendered: str) -> list[engine_pb2.TextPiece]:
        """The prompt, cut where something was hidden."""
        if not self._text_of:
            return [engine_pb2.TextPiece(text=rendered)]
        chars = "".join(self._text_of)
        parts = re.split(f"([{re.escape(chars)}])", rendered)
        return [
            engine_pb2.TextPiece(text=self._text_of.get(part, part), literal=part in self._text_of)
            for part in parts
            if part
        ]

    def _char(self, text: str, keep: frozenset[str]) -> str:
        if text in keep:
            return text
        if text not in self._char_of:
            char = next(self._free_chars())
            self._char_of[text], self._text_of[char] = char, text
        return self._char_of[text]

    def _free_chars(self) -> Iterator[str]:
        if self._free is None:
            taken = {char for text in self._texts for char in text if char >= "\ue000"}
            self._free = (char for char in _private_use() if char not in taken)
        return self._free


def strings_of(value: Any) -> Iterator[str]:
    """Every string in a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from strings_of(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings_of(item)


def _mapped(value: Any, pattern: re.Pattern[str], replace: Replace) -> Any:
    if isinstance(value, str):
        return pattern.sub(replace, value)
    if isinstance(value, dict):
        return {
            # A template looks a plain name up; it must find it whatever the vocabulary holds.
            key if key.isidentifier() else pattern.sub(replace, key): _mapped(
                item, pattern, replace
            )
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_mapped(item, pattern, replace) for item in value]
    return value


def _private_use() -> Iterator[str]:
    for first, last in _PRIVATE_USE:
        yield from map(chr, range(first, last + 1))


@lru_cache(maxsize=64)
def _pattern(control_tokens: tuple[str, ...]) -> re.Pattern[str] | None:
    texts = sorted({text for text in control_tokens if text}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, texts))) if texts else None
