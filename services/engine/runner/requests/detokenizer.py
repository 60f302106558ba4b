"""Turn an answer's tokens into text that may be shown: whole characters, and no stop string.

A pure state machine. It holds back the bytes of an incomplete character, and text that may become a
stop string, until the next token decides.

    shown        [ held ]   the text of the next token
    ^^^^^ never   ^^^^^^ the longest end of the text with which a stop string begins
    taken back

The stop string that is completed first ends the answer, wherever the tokens begin and end. If one
character completes two stop strings, the longer one counts.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable


class Detokenizer:
    """The text of one answer."""

    def __init__(self, piece: Callable[[int], bytes], stop_strings: Iterable[str] = ()) -> None:
        """`piece` gives a token's bytes. Empty stop strings are ignored."""
        self._piece = piece
        self._stop_strings = tuple(dict.fromkeys(stop for stop in stop_strings if stop))
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._stop_string: str | None = None

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended the answer."""
        return self._stop_string

    def feed(self, token: int) -> str:
        """Add a token; returns the text that may be shown now, which may be empty."""
        return self._release(self._decoder.decode(self._piece(token)))

    def finish(self) -> str:
        """End the answer; returns the text held back. An incomplete character becomes U+FFFD."""
        shown = self._release(self._decoder.decode(b"", final=True)) + self._held
        self._held = ""
        return shown

    def _release(self, new: str) -> str:
        if not self._stop_strings:
            return new
        if self._stop_string is not None:
            return ""
        text = self._held + new
        start = self._find_stop(text)
        if start is None:
            start = len(text) - _count_held(text, self._stop_strings)
            self._held = text[start:]
        else:
            self._held = ""
        return text[:start]

    def _find_stop(self, text: str) -> int | None:
        """Where the first completed stop string begins; sets `stop_string`."""
        first: tuple[int, int] | None = None
        for stop in self._stop_strings:
            begin = text.find(stop)
            if begin >= 0 and (first is None or (begin + len(stop), begin) < first):
                first = (begin + len(stop), begin)
                self._stop_string = stop
        return None if first is None else first[1]


def _count_held(text: str, stop_strings: Iterable[str]) -> int:
    """Length of the longest end of `text` that is a beginning, but not all, of a stop string."""
    longest = 0
    for stop in stop_strings:
        for length in range(min(len(stop) - 1, len(text)), longest, -1):
            if text.endswith(stop[:length]):
                longest = length
                break
    return longest
