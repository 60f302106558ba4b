"""The way out of a runner: frames to the front, written by a thread of its own.

The loop posts what happened in a step and goes on computing. While the pipe is full, deltas of one
answer merge, so that a slow reader costs one entry per answer and never a wait.
"""

from __future__ import annotations

import logging
import socket
import threading

from services.engine.messages import (
    Delta,
    Heartbeat,
    Report,
    RequestEvent,
    StepReport,
    encode_frame,
)

logger = logging.getLogger(__name__)


class Outbox:
    """Reports waiting to be written. Any thread may post."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._changed = threading.Condition()  # guards everything below
        self._reports: list[Report] = []
        self._beat: Heartbeat | None = None
        self._happenings: list[RequestEvent] = []
        self._deltas: dict[tuple[int, int], int] = {}  # (id, index) -> place in _happenings
        self._is_closed = False
        self._is_broken = False
        self._thread = threading.Thread(target=self._write, name="outbox", daemon=True)
        self._thread.start()

    def post(self, events: list[RequestEvent]) -> None:
        """Everything one step brought, as one frame or as part of the next."""
        if not events:
            return
        with self._changed:
            if self._happenings:
                self._merge(events)
            else:
                self._happenings = events
                self._deltas.clear()
            self._changed.notify()

    def send(self, report: Report) -> None:
        """Anything that is not part of a step; an older beat that still waits is replaced."""
        with self._changed:
            if isinstance(report, Heartbeat):
                self._beat = report
            else:
                self._reports.append(report)
            self._changed.notify()

    def close(self, timeout_seconds: float) -> None:
        """Write what is left, as far as the time allows; nothing can be posted after."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(timeout_seconds)

    def _merge(self, events: list[RequestEvent]) -> None:
        if not self._deltas:
            self._deltas = {
                (h.id, h.index): place
                for place, h in enumerate(self._happenings)
                if isinstance(h, Delta)
            }
        for happening in events:
            if not isinstance(happening, Delta):
                self._happenings.append(happening)
                continue
            place = self._deltas.setdefault((happening.id, happening.index), len(self._happenings))
            if place == len(self._happenings):
                self._happenings.append(happening)
            else:
                self._happenings[place] = _joined(self._happenings[place], happening)

    def _write(self) -> None:
        while (reports := self._next()) is not None:
            try:
                self._connection.sendall(b"".join(map(encode_frame, reports)))
            except OSError:
                # The reader's thread sees the end of the connection too, and ends the process.
                logger.info("front is gone")
                with self._changed:
                    self._is_broken = True
                return

    def _next(self) -> list[Report] | None:
        """What to write now; waits for it. None when all is written after `close`."""
        with self._changed:
            while not (self._reports or self._happenings or self._beat):
                if self._is_closed:
                    return None
                self._changed.wait()
            reports, self._reports = self._reports, []
            if self._happenings:
                reports.append(StepReport(self._happenings))
                self._happenings = []
                self._deltas = {}
            if self._beat is not None:
                reports.append(self._beat)
                self._beat = None
            return reports


def _joined(first: RequestEvent, more: Delta) -> Delta:
    assert isinstance(first, Delta)
    return Delta(
        more.id,
        more.index,
        first.text + more.text,
        first.tokens + more.tokens,
        first.logprobs + more.logprobs,
    )
