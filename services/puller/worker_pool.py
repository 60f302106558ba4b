"""Start workers while jobs wait, and run the maintenance that repairs what dead ones left.

    python -m services.puller ─► 0..N * services.puller.worker   stdin is a pipe: its end means stop

A worker ends by itself when it had nothing to do for a while.

This process does not pull models itself, so no model file can crash it.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import redis

from services.puller.job_runner import build_lease_owner_prefix
from services.puller.maintenance import Maintenance
from services.shared.pulls.job_queue import JobQueue

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
_MAINTENANCE_SECONDS = 5.0
_STORE_SWEEP_SECONDS = 600.0
_STABLE_SECONDS = 10.0  # the backoff starts over for a worker that lived this long
_MAX_BACKOFF_SECONDS = 30.0
_SHUTDOWN_SECONDS = 10.0


@dataclass(slots=True)
class _Slot:
    """The place of one worker; `process` is None while it has none."""

    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    start_at: float = 0.0
    failures: int = 0


class WorkerPool:
    """Owns the worker processes, `workers` at most. `run` returns after `stop`."""

    def __init__(
        self,
        maintenance: Maintenance,
        *,
        workers: int,
        job_queue: JobQueue,
        first_start: Callable[[], None],
        heartbeat_file: Path | None = None,
        command: tuple[str, ...] = (sys.executable, "-m", "services.puller.worker"),
    ) -> None:
        self._maintenance = maintenance
        self._job_queue = job_queue
        self._first_start: Callable[[], None] | None = first_start
        self._heartbeat_file = heartbeat_file
        self._command = command
        self._slots = [_Slot() for _ in range(workers)]
        self._dead_owners: set[str] = set()
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Ask `run` to return; safe in a signal handler."""
        self._stopping.set()

    def run(self) -> None:
        """Start workers for waiting tickets and run the maintenance until stopped."""
        maintain_at = sweep_at = 0.0
        try:
            while not self._stopping.is_set():
                now = time.monotonic()
                any_ended = self._collect_ended(now)
                self._run_safely(lambda: self._start_workers(time.monotonic()))
                if any_ended or now >= maintain_at:
                    self._write_heartbeat()
                    self._run_safely(self._maintain)
                    maintain_at = now + _MAINTENANCE_SECONDS
                if now >= sweep_at:
                    self._run_safely(self._maintenance.sweep_store)
                    sweep_at = now + _STORE_SWEEP_SECONDS
                self._stopping.wait(_POLL_SECONDS)
        finally:
            self._stop_workers()

    def _collect_ended(self, now: float) -> bool:
        any_ended = False
        for slot in self._slots:
            if slot.process is not None and slot.process.poll() is not None:
                any_ended = True
                self._handle_exit(slot, slot.process, now)
        return any_ended

    def _start_workers(self, now: float) -> None:
        """Start one for each waiting ticket that no starting worker is about to take."""
        free = [slot for slot in self._slots if slot.process is None and now >= slot.start_at]
        if not free or not (waiting := self._job_queue.count_waiting()):
            return
        started = sum(slot.process is not None for slot in self._slots)
        starting = max(0, started - self._job_queue.count_workers())
        for slot in free[: max(0, waiting - starting)]:
            slot.process = subprocess.Popen(self._command, stdin=subprocess.PIPE)
            slot.started_at = now

    def _handle_exit(self, slot: _Slot, process: subprocess.Popen[bytes], now: float) -> None:
        if process.returncode:
            logger.warning("worker ended", extra={"pid": process.pid, "status": process.returncode})
        self._dead_owners.add(build_lease_owner_prefix(process.pid))
        slot.failures = 0 if now - slot.started_at > _STABLE_SECONDS else slot.failures + 1
        slot.start_at = now + min(0.1 * 2**slot.failures, _MAX_BACKOFF_SECONDS)
        if process.stdin is not None:
            process.stdin.close()
        slot.process = None

    def _maintain(self) -> None:
        if self._first_start is not None:
            self._first_start()
            self._first_start = None
        self._maintenance.requeue_jobs(self._dead_owners)
        self._dead_owners.clear()

    def _write_heartbeat(self) -> None:
        if self._heartbeat_file is not None:
            self._heartbeat_file.touch()

    def _run_safely(self, action: Callable[[], object]) -> None:
        try:
            action()
        except redis.RedisError:
            logger.warning("redis does not answer")
        except Exception:  # the pool must survive whatever the maintenance finds
            logger.exception("maintenance failed")

    def _stop_workers(self) -> None:
        processes = [slot.process for slot in self._slots if slot.process is not None]
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + _SHUTDOWN_SECONDS
        for process in processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdin is not None:
                process.stdin.close()
            self._dead_owners.add(build_lease_owner_prefix(process.pid))
        # A worker that had to be killed could not return its job to the queue.
        self._run_safely(lambda: self._maintenance.requeue_jobs(self._dead_owners))
