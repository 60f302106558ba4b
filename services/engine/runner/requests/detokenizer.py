"""Turn an answer's tokens into text that may be shown: whole characters, and no stop string.

A pure state machine. What might still become a stop string, and the first bytes of a character, are
held back until the next token decides.

    shown        [ held ]   next token's text
    ^^^^^ never   ^^^^^^ the longest end of the text that begins a stop string
    taken back

The stop string that is completed first ends the answer, whatever the borders of the tokens were; of
two completed by the same character, the longer.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable


class AnswerText:
    """The text of one answer."""

    def __init__(self, piece: Callable[[int], bytes], stop_strings: Iterable[str] = ()) -> None:
        """`piece` gives a token's bytes. Empty stop strings are ignored."""
        self._piece = piece
        self._stops = tuple(dict.fromkeys(stop for stop in stop_strings if stop))
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._stopped: str | None = None

    @property
    def stopped(self) -> str | None:
        """The stop string that ended the answer."""
        return self._stopped

    def feed(self, token: int) -> str:
        """Text that may be shown now that the answer goes on with this token; may be empty."""
        return self._take(self._decoder.decode(self._piece(token)))

    def finish(self) -> str:
        """The answer is over: all that was held back, a broken character as U+FFFD."""
        shown = self._take(self._decoder.decode(b"", final=True)) + self._held
        self._held = ""
        return shown

    def _take(self, new: str) -> str:
        if not self._stops:
            return new
        if self._stopped is not None:
            return ""
        text = self._held + new
        start = self._find_stop(text)
        if start is None:
            start = len(text) - _held_length(text, self._stops)
            self._held = text[start:]
        else:
            self._held = ""
        return text[:start]

    def _find_stop(self, text: str) -> int | None:
        """Where the first completed stop string begins; sets `stopped`."""
        first: tuple[int, int] | None = None
        for stop in self._stops:
            begin = text.find(stop)
            if begin >= 0 and (first is None or (begin + len(stop), begin) < first):
                first = (begin + len(stop), begin)
                self._stopped = stop
        return None if first is None else first[1]


def _held_length(text: str, stops: Iterable[str]) -> int:
    """Length of the longest end of `text` that is the beginning, but not all, of a stop string."""
    longest = 0
    for stop in stops:
        for length in range(min(len(stop) - 1, len(text)), longest, -1):
            if text.endswith(stop[:length]):
                longest = length
                break
    return longest
