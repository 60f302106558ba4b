"""Lets a parser read a text that arrives in deltas as if all of it were there.

A parser is a generator that reads with `yield from source.…()` and is resumed with every delta.
It sees the text only through this class, which decides nothing before the decision is certain: so
the result does not depend on how the text was cut into deltas.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import TypeVar

from services.api.parsing.holdback import Markers

T = TypeVar("T")
Steps = Generator[None, None, T]  # yields when it needs more text, returns a T

_SPACES = re.compile(r"[ \t\r\n]+")


class TextSource:
    """The text that has arrived and is not read yet, and a copy of what may have to be given back.

    Between two deltas at most a marker, a number or an escape sequence is kept unread.
    """

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._is_ended = False
        self._held: list[str] | None = None

    @property
    def unread(self) -> int:
        """How many characters are kept."""
        return len(self._text) - self._at

    @property
    def is_holding(self) -> bool:
        """Whether what is read is kept, as it may turn out to be content."""
        return self._held is not None

    def push(self, text: str) -> None:
        """More text."""
        self._text = self._text[self._at :] + text
        self._at = 0

    def end(self) -> None:
        """No more text."""
        self._is_ended = True

    def hold(self, text: str = "") -> None:
        """Keep a copy of what is read from now on; `text` is what was read just before."""
        self._held = [text]

    def release(self) -> str:
        """Stop keeping it, and return what was kept."""
        held, self._held = "".join(self._held or ()), None
        return held

    def take(self, count: int) -> str:
        """Read so many characters, which have arrived."""
        text = self._text[self._at : self._at + count]
        self._at += len(text)
        if self._held is not None:
            self._held.append(text)
        return text

    def take_match(self, pattern: re.Pattern[str]) -> str:
        """Read what the pattern matches here of the text that has arrived, which may be nothing."""
        match = pattern.match(self._text, self._at)
        return self.take(match.end() - self._at) if match else ""

    def need(self, count: int = 1) -> Steps[str]:
        """The next characters, unread; fewer at the end."""
        while self.unread < count and not self._is_ended:
            yield
        return self._text[self._at : self._at + count]

    def peek_match(self, pattern: re.Pattern[str], limit: int) -> Steps[str]:
        """All of what the pattern, a run of characters, matches here, unread; up to the limit."""
        while True:
            match = pattern.match(self._text, self._at)
            found = match[0] if match else ""
            if len(found) >= limit or len(found) < self.unread or self._is_ended:
                return found[:limit]
            yield

    def literal(self, text: str) -> Steps[bool]:
        """Read this text, if it is next."""
        while True:
            seen = self._text[self._at : self._at + len(text)]
            if seen == text:
                self.take(len(text))
                return True
            if self._is_ended or not text.startswith(seen):
                return False
            yield

    def first_literal(self, texts: tuple[str, ...]) -> Steps[str]:
        """Read the first of these texts that is next; "" for none of them."""
        for text in texts:
            if (yield from self.literal(text)):
                return text
        return ""

    def may_follow(self, texts: tuple[str, ...]) -> Steps[bool]:
        """Whether one of these texts is next, unread, or the text ends before that is certain."""
        longest = max(map(len, texts))
        while True:
            seen = self._text[self._at : self._at + longest]
            if any(seen.startswith(text) for text in texts):
                return True
            if self._is_ended or not any(text.startswith(seen) for text in texts):
                return any(text.startswith(seen) for text in texts)
            yield

    def spaces(self) -> Steps[None]:
        """Read the whitespace that is next."""
        while True:
            self.take_match(_SPACES)
            if self.unread or self._is_ended:
                return
            yield

    def piece(self, markers: Markers) -> Steps[tuple[str, str]]:
        """Read some text up to a marker, and the marker if it is there; two "" at the end."""
        while True:
            match = markers.search(self._text, self._at)
            if match:
                return self.take(match.start() - self._at), self.take(len(match[0]))
            held = 0 if self._is_ended else markers.count_held(self._text, self._at)
            if self.unread > held or self._is_ended:
                return self.take(self.unread - held), ""
            yield

    def peek_until(self, markers: Markers, limit: int) -> Steps[tuple[str, str]]:
        """The text before the next marker and the marker, unread; two "" if none is that near."""
        while True:
            # Not beyond: a delta may be long, and this is called for each of its markers.
            end = self._at + limit + markers.longest
            match = markers.search(self._text, self._at, end)
            if match and match.start() - self._at <= limit:
                return self._text[self._at : match.start()], match[0]
            held = markers.count_held(self._text, self._at)
            if match or self.unread - held > limit or self._is_ended:
                return "", ""
            yield
