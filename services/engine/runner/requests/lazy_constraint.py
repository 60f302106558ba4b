"""Waits in an answer for the text that begins a constraint.

    START ─► THINKING ─► ANSWER      a trigger counts in ANSWER only
      └───────────────────▲

Until then no token is checked or masked: what is watched are the bytes of the tokens.
"""

from __future__ import annotations

from enum import Enum, auto

from services.engine.core import Trigger
from services.engine.runner.requests.structured_output import ConstraintState

_SPACE = b" \t\r\n"


class _Place(Enum):
    START = auto()  # nothing but blank space, or a part of the mark, so far
    THINKING = auto()
    ANSWER = auto()
    TOO_LATE = auto()  # for a trigger that counts only at the start


class LazyConstraint:
    """Watches one answer. One thread."""

    def __init__(self, state: ConstraintState, trigger: Trigger) -> None:
        """`state` is behind the trigger, and is not changed."""
        self._state = state
        self._trigger = trigger.text.encode()
        self._only_at_start = trigger.only_at_start
        self._start, self._end = trigger.thinking_start.encode(), trigger.thinking_end.encode()
        self._place = _Place.START if self._start else _Place.ANSWER
        if trigger.is_thinking:
            self._place = _Place.THINKING
        self._tail = b""  # what may still become a mark or the trigger

    def watch(self, piece: bytes) -> ConstraintState | None:
        """Append a token's bytes; where they complete the trigger, what must follow them.

        Bytes behind the trigger that do not fit were no call: the answer stays free.
        """
        if self._place is _Place.TOO_LATE:
            return None
        self._tail += piece
        if self._place is _Place.START:
            self._search_start()
        if self._place is _Place.THINKING and self._cut_behind(self._end):
            self._place = _Place.ANSWER
        if self._only_at_start and self._place is _Place.ANSWER:
            self._check_start()
        if self._place is not _Place.ANSWER or not self._cut_behind(self._trigger):
            return None
        state = self._state.copy()
        behind, self._tail = self._tail, b""
        if self._only_at_start:
            self._place = _Place.TOO_LATE
        return state if state.try_text(behind) else None

    def _search_start(self) -> None:
        found = self._tail.lstrip(_SPACE)
        if found.startswith(self._start):
            self._tail = found.removeprefix(self._start)
            self._place = _Place.THINKING
        elif not self._start.startswith(found):
            self._place = _Place.ANSWER

    def _check_start(self) -> None:
        self._tail = self._tail.lstrip(_SPACE)
        if not self._tail.startswith(self._trigger) and not self._trigger.startswith(self._tail):
            self._place = _Place.TOO_LATE

    def _cut_behind(self, mark: bytes) -> bool:
        """Keep what is behind the mark; without it, what may be its beginning."""
        _, found, behind = self._tail.partition(mark)
        self._tail = behind if found else self._tail[max(0, len(self._tail) - len(mark) + 1) :]
        return bool(found)
