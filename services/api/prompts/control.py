"""Escapes control tokens in the clients' texts, so that the model reads them as ordinary text.

A rendered prompt is tokenised with control tokens recognised, since the template writes its own
control tokens as text. Before rendering, each control token in a client's text is replaced by a
private-use character that the conversation does not contain. After rendering, the prompt is split
at these characters, and each becomes a literal piece with the original text, which never yields a
control token. Text without control tokens (nearly all) stays unchanged, in one piece.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any

from protos import engine_pb2
from services.shared.errors import InvalidRequest

# Templates search earlier answers for these tags to leave the thinking out.
_KEPT_IN_ANSWERS = frozenset({"<think>", "</think>"})
MAX_LITERALS = 1 << 14
_PRIVATE_USE = ((0xE000, 0xF8FF), (0xF0000, 0xFFFFD))

Replace = Callable[[re.Match[str]], str]


class ControlTokenEscaper:
    """Escapes the control tokens of one conversation.

    `texts`: everything that will be in the prompt; the replacement characters occur in none of it.
    """

    def __init__(self, control_tokens: tuple[str, ...], texts: Iterable[str]) -> None:
        self._pattern = _compile_pattern(control_tokens)
        self._char_to_text: dict[str, str] = {}
        self._text_to_char: dict[str, str] = {}
        self._texts = texts
        self._unused: Iterator[str] | None = None

    def escape_message(self, message: dict[str, Any]) -> dict[str, Any]:
        """The message with its control tokens escaped and its role unchanged."""
        keep = _KEPT_IN_ANSWERS if message.get("role") == "assistant" else frozenset()
        return {k: v if k == "role" else self.escape(v, keep=keep) for k, v in message.items()}

    def escape(self, value: Any, *, keep: frozenset[str] = frozenset()) -> Any:
        """Any JSON value with its control tokens escaped, also in keys that are no identifiers."""
        if self._pattern is None:
            return value
        return _replace_in_strings(
            value, self._pattern, lambda match: self._char_for(match[0], keep)
        )

    def unused_char(self) -> str:
        """A private-use character that the conversation does not contain."""
        return next(self._unused_chars())

    def split(self, rendered: str) -> list[engine_pb2.TextPiece]:
        """The prompt, split where a control token was escaped; the tokens are literal pieces."""
        if not self._char_to_text:
            return [engine_pb2.TextPiece(text=rendered)]
        chars = "".join(self._char_to_text)
        # Neighbours are one piece: a piece takes many times the memory of its text.
        parts = re.split(f"([{re.escape(chars)}]+)", rendered, maxsplit=MAX_LITERALS + 1)
        if len(parts) > 2 * MAX_LITERALS + 1:
            raise InvalidRequest(
                f"the conversation has the text of control tokens in more than {MAX_LITERALS} places",
                param="messages",
            )
        table = str.maketrans(self._char_to_text)
        return [
            engine_pb2.TextPiece(text=part.translate(table), literal=number % 2 == 1)
            for number, part in enumerate(parts)
            if part
        ]

    def _char_for(self, text: str, keep: frozenset[str]) -> str:
        if text in keep:
            return text
        if text not in self._text_to_char:
            char = next(self._unused_chars())
            self._text_to_char[text], self._char_to_text[char] = char, text
        return self._text_to_char[text]

    def _unused_chars(self) -> Iterator[str]:
        if self._unused is None:
            used = {char for text in self._texts for char in text if char >= "\ue000"}
            self._unused = (char for char in _private_use_chars() if char not in used)
        return self._unused


def iter_strings(value: Any) -> Iterator[str]:
    """Every string in a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from iter_strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from iter_strings(item)


def _replace_in_strings(value: Any, pattern: re.Pattern[str], replace: Replace) -> Any:
    if isinstance(value, str):
        return pattern.sub(replace, value)
    if isinstance(value, dict):
        return {
            # A template looks up plain names; it must find them whatever the vocabulary contains.
            key if key.isidentifier() else pattern.sub(replace, key): _replace_in_strings(
                item, pattern, replace
            )
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_replace_in_strings(item, pattern, replace) for item in value]
    return value


def _private_use_chars() -> Iterator[str]:
    for first, last in _PRIVATE_USE:
        yield from map(chr, range(first, last + 1))


@lru_cache(maxsize=64)
def _compile_pattern(control_tokens: tuple[str, ...]) -> re.Pattern[str] | None:
    texts = sorted({text for text in control_tokens if text}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, texts))) if texts else None
