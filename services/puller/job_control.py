"""A worker's side of one running job: report its progress, and learn when it should stop.

A thread writes what changed a few times a second and renews the lease, however long the job's own
thread hashes or waits. The job's thread calls `raise_if_interrupted()` between its steps. An outage
of Redis does not stop the job: the next report contains everything that changed.
"""

from __future__ import annotations

import logging
import threading
import time
from enum import Enum
from typing import Any, Self

import redis

from services.shared.pulls.job import FileProgress, PullJob, StopRequest
from services.shared.pulls.job_store import JobStore, JobTakenOver

logger = logging.getLogger(__name__)

REPORT_SECONDS = 0.4
_SPEED_WEIGHT = 0.15  # of the newest interval in the moving average


class StopReason(Enum):
    """Why a job stops before it is done."""

    PAUSE = "pause"
    CANCEL = "cancel"
    SHUTDOWN = "shutdown"  # the worker ends; another one continues the job
    TAKEN_OVER = "taken_over"  # another worker owns the job


class Interrupted(Exception):
    """Raised by `raise_if_interrupted` in the job's own thread."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class JobControl:
    """The progress and the stop reason of one job. `_lock` guards `_files`, `_note`, `_speed`."""

    def __init__(self, job_store: JobStore, job: PullJob, owner: str) -> None:
        self._job_store = job_store
        self._job_id = job.id
        self._owner = owner
        self._lock = threading.Lock()
        self._files: dict[str, FileProgress] = {}
        self._first_bytes: int | None = None  # on disk when this run began
        self._note: str | None = None
        self._reported: dict[str, Any] = {}
        self._stop_reason: StopReason | None = None
        self._speed = _AverageSpeed()
        self.interrupted = threading.Event()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run_reports, name="report", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def raise_if_interrupted(self) -> None:
        """Raise Interrupted when the job should stop now."""
        if self._stop_reason is not None:
            raise Interrupted(self._stop_reason)

    def interrupt(self, reason: StopReason) -> None:
        """Ask the job to stop; the first reason counts. Safe in a signal handler."""
        if self._stop_reason is None:
            self._stop_reason = reason
        self.interrupted.set()

    @property
    def stop_reason(self) -> StopReason | None:
        """Why the job should stop; None while it may go on."""
        return self._stop_reason

    def set_files(self, files: list[FileProgress]) -> None:
        """Set the files of the job."""
        with self._lock:
            self._files = {file.path: file for file in files}
            downloaded_bytes = sum(file.downloaded_bytes for file in files)
            if self._first_bytes is None:
                self._first_bytes = downloaded_bytes
            self._speed.restart(downloaded_bytes)

    def set_downloaded(self, path: str, downloaded_bytes: int) -> None:
        """Set how many bytes of a file are on disk."""
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
        """Set what the job waits for, as a sentence for people."""
        with self._lock:
            self._note = note

    @property
    def downloaded_bytes(self) -> int:
        """How many bytes of the job's files are on disk."""
        with self._lock:
            return sum(file.downloaded_bytes for file in self._files.values())

    @property
    def made_progress(self) -> bool:
        """Whether this run has brought bytes."""
        return self._first_bytes is not None and self.downloaded_bytes > self._first_bytes

    def progress_fields(self) -> dict[str, Any]:
        """Return the progress as fields of the job's state."""
        with self._lock:
            files = tuple(self._files.values())
            downloaded_bytes = sum(file.downloaded_bytes for file in files)
            progress: dict[str, Any] = {
                "files": files,
                "downloaded_bytes": downloaded_bytes,
                "total_bytes": sum(file.total_bytes for file in files) if files else None,
                "bytes_per_second": self._speed.update(downloaded_bytes, time.monotonic()),
                "note": self._note,
            }
            if self._first_bytes is not None and downloaded_bytes > self._first_bytes:
                # A worker that dies again after progress is not killed by the file: a new count.
                progress["attempts"] = 1
            return progress

    def _run_reports(self) -> None:
        while not self._done.wait(REPORT_SECONDS):
            try:
                self._report()
            except JobTakenOver:
                self.interrupt(StopReason.TAKEN_OVER)
                return
            except redis.RedisError:
                logger.warning("redis does not answer", extra={"job": self._job_id})

    def _report(self) -> None:
        fields, reported = self.progress_fields(), self._reported
        changed = {k: v for k, v in fields.items() if k not in reported or reported[k] != v}
        requested = self._job_store.report(self._job_id, self._owner, changed)
        self._reported = fields
        if requested is StopRequest.PAUSE:
            self.interrupt(StopReason.PAUSE)
        elif requested is StopRequest.CANCEL:
            self.interrupt(StopReason.CANCEL)


class _AverageSpeed:
    """A moving average of bytes per second; None before the first interval."""

    def __init__(self) -> None:
        self._last: tuple[int, float] | None = None
        self._average: float | None = None

    def restart(self, done_bytes: int) -> None:
        """Start from these bytes, which do not count as downloaded now."""
        self._last = (done_bytes, time.monotonic())

    def update(self, done_bytes: int, now: float) -> float | None:
        """Add the bytes since the last call, and return the average."""
        if self._last is not None and now > self._last[1]:
            rate = max(0.0, (done_bytes - self._last[0]) / (now - self._last[1]))
            old = self._average
            self._average = rate if old is None else old + _SPEED_WEIGHT * (rate - old)
            self._last = (done_bytes, now)
        return None if self._average is None else round(self._average, 1)
