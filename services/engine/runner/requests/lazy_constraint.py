"""Waits in an answer for the text that begins a constraint, behind the thinking.

Until then no token is checked or masked: what is watched are the bytes of the tokens.
"""

from __future__ import annotations

from services.engine.core import Trigger
from services.engine.runner.requests.structured_output import ConstraintState
from services.engine.runner.requests.thinking import SPACE, ThinkingWatch, cut_behind


class LazyConstraint:
    """Watches one answer. One thread."""

    def __init__(self, state: ConstraintState, trigger: Trigger) -> None:
        """`state` is behind the trigger, and is not changed."""
        self._state = state
        self._trigger = trigger.text.encode()
        self._only_at_start = trigger.only_at_start
        self._thinking = ThinkingWatch(
            trigger.thinking_start, trigger.thinking_end, is_open=trigger.is_thinking
        )
        self._is_too_late = False  # for a trigger that counts only at the start
        self._tail = b""  # what may still become the trigger

    def watch(self, piece: bytes) -> ConstraintState | None:
        """Append a token's bytes; where they complete the trigger, what must follow them.

        Bytes behind the trigger that do not fit were no call: the answer stays free.
        """
        if self._is_too_late:
            return None
        self._tail += self._thinking.feed(piece)
        if self._only_at_start:
            self._check_start()
        is_found, self._tail = cut_behind(self._tail, self._trigger)
        if self._is_too_late or not is_found:
            return None
        state = self._state.copy()
        behind, self._tail = self._tail, b""
        self._is_too_late = self._only_at_start
        return state if state.try_text(behind) else None

    def _check_start(self) -> None:
        self._tail = self._tail.lstrip(SPACE)
        if not self._tail.startswith(self._trigger) and not self._trigger.startswith(self._tail):
            self._is_too_late = True
