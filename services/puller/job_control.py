"""The worker's side of one running job: tells the board how far it is, hears what people wish.

A thread writes what changed a few times a second and renews the lease, however long the job's own
thread hashes or waits. That thread asks `check()` between steps, which raises once somebody wants
the job to stop. A Redis that is away for a while stops nothing: the next write says it all.
"""

from __future__ import annotations

import logging
import threading
import time
from enum import Enum
from types import TracebackType
from typing import Any, Self

import redis

from services.shared.pulls.job import FileProgress, PullJob, StopRequest
from services.shared.pulls.job_store import JobStore, JobTakenOver

logger = logging.getLogger(__name__)

REPORT_SECONDS = 0.4
_SPEED_WEIGHT = 0.15  # of the newest interval in the moving average


class Why(Enum):
    """Why a job stops before its end."""

    PAUSE = "pause"
    CANCEL = "cancel"
    LEAVE = "leave"  # the worker is asked to stop; somebody else goes on
    TAKEN_OVER = "taken_over"


class Interrupted(Exception):
    """Raised by `check` in the job's own thread."""

    def __init__(self, why: Why) -> None:
        super().__init__(why.value)
        self.why = why


class JobControl:
    """Progress and wishes of one job. Its fields are guarded by `_lock`."""

    def __init__(self, board: JobStore, job: PullJob, owner: str) -> None:
        self._board = board
        self._job_id = job.id
        self._owner = owner
        self._lock = threading.Lock()
        self._files: dict[str, FileProgress] = {}
        self._note: str | None = None
        self._written: dict[str, Any] = {}
        self._why: Why | None = None
        self._speed = _Speed()
        self.interrupted = threading.Event()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._report_on, name="report", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()

    def check(self) -> None:
        """Interrupted when the job should stop now."""
        if self._why is not None:
            raise Interrupted(self._why)

    def interrupt(self, why: Why) -> None:
        """Ask the job to stop; the first reason counts. Safe in a signal handler."""
        if self._why is None:
            self._why = why
        self.interrupted.set()

    def set_files(self, files: list[FileProgress]) -> None:
        """What the job consists of."""
        with self._lock:
            self._files = {file.path: file for file in files}
            self._speed.restart(sum(file.downloaded_bytes for file in files))

    def set_done(self, path: str, downloaded_bytes: int) -> None:
        """How much of a file is there."""
        with self._lock:
            old = self._files[path]
            if old.downloaded_bytes != downloaded_bytes:
                self._files[path] = FileProgress(
                    path=path,
                    digest=old.digest,
                    downloaded_bytes=downloaded_bytes,
                    total_bytes=old.total_bytes,
                )

    def set_note(self, note: str | None) -> None:
        """What the job waits for, as a sentence."""
        with self._lock:
            self._note = note

    def fields(self) -> dict[str, Any]:
        """The progress as fields of the job's state."""
        with self._lock:
            files = tuple(self._files.values())
            done = sum(file.downloaded_bytes for file in files)
            return {
                "files": files,
                "downloaded_bytes": done,
                "total_bytes": sum(file.total_bytes for file in files) if files else None,
                "bytes_per_second": self._speed.update(done, time.monotonic()),
                "note": self._note,
            }

    def _report_on(self) -> None:
        while not self._done.wait(REPORT_SECONDS):
            try:
                self._report()
            except JobTakenOver:
                self.interrupt(Why.TAKEN_OVER)
                return
            except redis.RedisError:
                logger.warning("redis does not answer", extra={"job": self._job_id})

    def _report(self) -> None:
        fields = self.fields()
        written = self._written
        changed = {k: v for k, v in fields.items() if k not in written or written[k] != v}
        requested = self._board.report(self._job_id, self._owner, changed)
        self._written = fields
        if requested is StopRequest.PAUSE:
            self.interrupt(Why.PAUSE)
        elif requested is StopRequest.CANCEL:
            self.interrupt(Why.CANCEL)


class _Speed:
    """A moving average of bytes a second; None before anything moved."""

    def __init__(self) -> None:
        self._last: tuple[int, float] | None = None
        self._average: float | None = None

    def restart(self, done_bytes: int) -> None:
        """Bytes that were there before do not count as speed."""
        self._last = (done_bytes, time.monotonic())

    def update(self, done_bytes: int, now: float) -> float | None:
        """The average, with what came since the last call."""
        if self._last is not None and now > self._last[1]:
            rate = max(0.0, (done_bytes - self._last[0]) / (now - self._last[1]))
            old = self._average
            self._average = rate if old is None else old + _SPEED_WEIGHT * (rate - old)
            self._last = (done_bytes, now)
        return None if self._average is None else round(self._average, 1)
