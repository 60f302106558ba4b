"""Follows an answer through the thinking at its start, and ends it after so many tokens.

    START ─► THINKING ─► ANSWER
      └───────────────────▲

What is watched are the bytes of the tokens: a mark may begin and end within a token. A thinking
that has used its tokens is ended by its end mark, written in place of what the model would say.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from enum import Enum, auto

SPACE = b" \t\r\n"
_MAX_LATE_TOKENS = 32  # to complete a character or an end mark: a model may begin marks for ever


def cut_behind(held: bytes, mark: bytes) -> tuple[bool, bytes]:
    """Whether a mark was found, and what is behind it; else what may be its beginning."""
    _, found, behind = held.partition(mark)
    return bool(found), behind if found else held[max(0, len(held) - len(mark) + 1) :]


class _Place(Enum):
    START = auto()  # nothing but blank space, or a part of the mark, so far
    THINKING = auto()
    ANSWER = auto()


class ThinkingWatch:
    """Watches one answer. One thread."""

    def __init__(self, start: str, end: str, *, is_open: bool) -> None:
        """The marks; without a start the model does not think.

        `is_open`: the answer begins inside the thinking, without the start.
        """
        self._start, self._end = start.encode(), end.encode()
        self._place = _Place.START if start else _Place.ANSWER
        if is_open:
            self._place = _Place.THINKING
        self._held = b""  # what may still become a mark

    @property
    def is_thinking(self) -> bool:
        """Whether the next token is thinking, or its end mark."""
        return self._place is _Place.THINKING

    @property
    def is_over(self) -> bool:
        """Whether all that follows is the answer."""
        return self._place is _Place.ANSWER

    @property
    def may_be_ending(self) -> bool:
        """Whether the last bytes are the beginning of the end mark."""
        held = self._held
        return any(self._end.startswith(held[at:]) for at in range(len(held)))

    def feed(self, piece: bytes) -> bytes:
        """Append a token's bytes; returns the bytes that this shows to be the answer's."""
        if self._place is _Place.ANSWER:
            return piece
        self._held += piece
        return self._take_answer()

    def _take_answer(self) -> bytes:
        if self._place is _Place.START:
            self._search_start()
        if self._place is _Place.THINKING:
            self._search_end()
        if self._place is not _Place.ANSWER:
            return b""
        answer, self._held = self._held, b""
        return answer

    def _search_start(self) -> None:
        found = self._held.lstrip(SPACE)
        if found.startswith(self._start):
            self._held = found.removeprefix(self._start)
            self._place = _Place.THINKING
        elif not self._start.startswith(found):
            self._place = _Place.ANSWER

    def _search_end(self) -> None:
        is_found, self._held = cut_behind(self._held, self._end)
        if is_found:
            self._place = _Place.ANSWER


class ThinkingLimit:
    """What one answer may think: at most `max_tokens` tokens, and those of marks. One thread.

    A character, or an end mark that the model has begun, is completed first.
    """

    def __init__(self, watch: ThinkingWatch, max_tokens: int, end_tokens: Sequence[int]) -> None:
        """`end_tokens` spell the end mark."""
        self._watch = watch
        self._left = max_tokens
        self._end_tokens = end_tokens
        self._written = 0  # of the end tokens
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to limit."""
        return self._watch.is_over

    @property
    def next_token(self) -> int | None:
        """The token of the end mark that must come next; None where the model is free."""
        if not self._watch.is_thinking or self._left > 0:
            return None
        is_unfinished = self._watch.may_be_ending or bool(self._characters.getstate()[0])
        if is_unfinished and not self._written and self._left > -_MAX_LATE_TOKENS:
            return None
        is_written = self._written == len(self._end_tokens)
        return None if is_written else self._end_tokens[self._written]

    def write(self, token: int, piece: bytes) -> None:
        """Append a token of the answer, with its bytes."""
        if token == self.next_token:
            self._written += 1
        self._left -= self._watch.is_thinking
        self._characters.decode(piece)
        self._watch.feed(piece)
