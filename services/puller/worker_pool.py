"""The puller's main process: keeps worker processes running and sweeps up after dead ones.

    python -m services.puller ─► N * services.puller.worker      stdin is a pipe: its end means leave

It does no pulling itself, so nothing a model does can take it down.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import redis

from services.puller.job_runner import owner_prefix
from services.puller.maintenance import Sweep
from services.shared import redis_keys

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
_SWEEP_SECONDS = 5.0
_STORE_SWEEP_SECONDS = 600.0
_STEADY_SECONDS = 10.0  # a worker that lived so long starts its back-off anew
_LONGEST_BACKOFF_SECONDS = 30.0
_LEAVE_SECONDS = 10.0


@dataclass(slots=True)
class _Slot:
    """One worker's place; `process` is None while it waits to be started again."""

    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    start_at: float = 0.0
    failures: int = 0


class Supervisor:
    """Owns the worker processes. `run` returns after `stop`."""

    def __init__(
        self,
        client: redis.Redis,
        sweep: Sweep,
        *,
        workers: int,
        first_start: Callable[[], None],
        command: tuple[str, ...] = (sys.executable, "-m", "services.puller.worker"),
    ) -> None:
        self._redis = client
        self._sweep = sweep
        self._first_start: Callable[[], None] | None = first_start
        self._command = command
        self._slots = [_Slot() for _ in range(workers)]
        self._dead: set[str] = set()
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Ask it to end; safe in a signal handler."""
        self._stopping.set()

    def run(self) -> None:
        """Start the workers and look after them until stopped."""
        sweep_at = store_at = 0.0
        try:
            while not self._stopping.is_set():
                now = time.monotonic()
                died = self._look_after_workers(now)
                if died or now >= sweep_at:
                    self._beat_and_sweep()
                    sweep_at = now + _SWEEP_SECONDS
                if now >= store_at:
                    self._guarded(self._sweep.store)
                    store_at = now + _STORE_SWEEP_SECONDS
                self._stopping.wait(_LOOK_SECONDS)
        finally:
            self._stop_workers()

    def _look_after_workers(self, now: float) -> bool:
        died = False
        for slot in self._slots:
            if slot.process is not None and slot.process.poll() is not None:
                died = True
                self._bury(slot, slot.process, now)
            if slot.process is None and now >= slot.start_at:
                slot.process = subprocess.Popen(self._command, stdin=subprocess.PIPE)
                slot.started_at = now
        return died

    def _bury(self, slot: _Slot, process: subprocess.Popen[bytes], now: float) -> None:
        logger.warning("worker ended", extra={"pid": process.pid, "status": process.returncode})
        self._dead.add(owner_prefix(process.pid))
        slot.failures = 0 if now - slot.started_at > _STEADY_SECONDS else slot.failures + 1
        slot.start_at = now + min(0.1 * 2**slot.failures, _LONGEST_BACKOFF_SECONDS)
        if process.stdin is not None:
            process.stdin.close()
        slot.process = None

    def _beat_and_sweep(self) -> None:
        def beat_and_sweep() -> None:
            key = redis_keys.puller(socket.gethostname())
            self._redis.set(key, "alive", ex=redis_keys.PULLER_ALIVE_SECONDS)
            if self._first_start is not None:
                self._first_start()
                self._first_start = None
            self._sweep.jobs(self._dead)
            self._dead.clear()

        self._guarded(beat_and_sweep)

    def _guarded(self, action: Callable[[], object]) -> None:
        try:
            action()
        except redis.RedisError:
            logger.warning("redis does not answer")
        except Exception:  # the supervisor must outlive whatever a sweep meets
            logger.exception("a sweep failed")

    def _stop_workers(self) -> None:
        processes = [slot.process for slot in self._slots if slot.process is not None]
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + _LEAVE_SECONDS
        for process in processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdin is not None:
                process.stdin.close()
            self._dead.add(owner_prefix(process.pid))
        # A worker that had to be killed could not put its job back.
        self._guarded(lambda: self._sweep.jobs(self._dead))
        with contextlib.suppress(redis.RedisError):
            self._redis.delete(redis_keys.puller(socket.gethostname()))
