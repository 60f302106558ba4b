"""The output of a runner: a thread that writes frames to the front.

The loop posts the events of a step and continues to compute. While the pipe is full, the deltas of
an answer are merged, so that a slow reader costs one entry per answer and never blocks the loop.
"""

from __future__ import annotations

import logging
import socket
import threading

from services.engine.messages.frames import encode_frame
from services.engine.messages.reports import Delta, Heartbeat, Report, RequestEvent, StepReport

logger = logging.getLogger(__name__)


class ReportWriter:
    """Reports that wait to be written. Any thread may add to them."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._changed = threading.Condition()  # guards everything below
        self._reports: list[Report] = []
        self._heartbeat: Heartbeat | None = None
        self._events: list[RequestEvent] = []
        self._deltas: dict[tuple[int, int], int] = {}  # (id, index) -> its place in _events
        self._is_closed = False
        self._thread = threading.Thread(target=self._write, name="report-writer", daemon=True)
        self._thread.start()

    def post(self, events: list[RequestEvent]) -> None:
        """Add the events of one step: they become a frame of their own, or part of the next one."""
        if not events:
            return
        with self._changed:
            if self._events:
                self._merge(events)
            else:
                self._events = events
                self._deltas.clear()
            self._changed.notify()

    def send(self, report: Report) -> None:
        """Add a report that is not part of a step; a heartbeat replaces one that still waits."""
        with self._changed:
            if isinstance(report, Heartbeat):
                self._heartbeat = report
            else:
                self._reports.append(report)
            self._changed.notify()

    def close(self, timeout_seconds: float) -> None:
        """Write what is left, within the timeout; reports that are added later may be lost."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(timeout_seconds)

    def _merge(self, events: list[RequestEvent]) -> None:
        if not self._deltas:
            self._deltas = {
                (event.id, event.index): place
                for place, event in enumerate(self._events)
                if isinstance(event, Delta)
            }
        for event in events:
            if not isinstance(event, Delta):
                self._events.append(event)
                continue
            place = self._deltas.setdefault((event.id, event.index), len(self._events))
            if place == len(self._events):
                self._events.append(event)
            else:
                self._events[place] = _join_deltas(self._events[place], event)

    def _write(self) -> None:
        while (reports := self._next()) is not None:
            try:
                self._connection.sendall(b"".join(map(encode_frame, reports)))
            except OSError:
                # The reading thread sees the end of the connection too, and ends the process.
                logger.info("the engine front closed the connection")
                return

    def _next(self) -> list[Report] | None:
        """Wait for the reports to write next; None after `close`, when all are written."""
        with self._changed:
            while not (self._reports or self._events or self._heartbeat):
                if self._is_closed:
                    return None
                self._changed.wait()
            reports, self._reports = self._reports, []
            if self._events:
                reports.append(StepReport(self._events))
                self._events = []
                self._deltas = {}
            if self._heartbeat is not None:
                reports.append(self._heartbeat)
                self._heartbeat = None
            return reports


def _join_deltas(first: RequestEvent, more: Delta) -> Delta:
    assert isinstance(first, Delta)
    return Delta(
        more.id,
        more.index,
        first.text + more.text,
        first.tokens + more.tokens,
        first.logprobs + more.logprobs,
    )
