"""When a download retries, when it gives up, and when a source is too slow."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The limits of retries and timeouts."""

    timeout_seconds: float = 30.0  # without a byte
    min_bytes_per_second: int = 1024  # averaged over one timeout; slower counts as stalled
    # In a row, without `min_progress_bytes` of progress; with the last one the job is put back.
    max_failures: int = 6
    min_progress_bytes: int = 64 << 10
    backoff_seconds: float = 0.5  # doubles with each failure
    max_backoff_seconds: float = 30.0
    max_retry_after_seconds: float = 300.0
    max_wait_seconds: float = 60.0  # a longer wait is not for a worker: the job is put back


class RetryState:
    """The failures in a row of one range worker, or of one repeated request."""

    def __init__(self, policy: RetryPolicy, done_bytes: int = 0) -> None:
        self._policy = policy
        self._failures = 0
        self._best_done_bytes = done_bytes

    def next_wait_seconds(
        self, retry_after_seconds: float | None, *, done_bytes: int = 0
    ) -> float | None:
        """Count a failure and return the wait before the next attempt; None means give up.

        A source that asks for a long wait is given up at once: another job can use the worker.
        The count starts over when `min_progress_bytes` have arrived since it last started.
        """
        if done_bytes - self._best_done_bytes >= self._policy.min_progress_bytes:
            self._failures, self._best_done_bytes = 0, done_bytes
        self._failures += 1
        if self._failures >= self._policy.max_failures:
            return None
        if retry_after_seconds is not None:
            is_short = retry_after_seconds <= self._policy.max_wait_seconds
            return retry_after_seconds if is_short else None
        backoff = self._policy.backoff_seconds * float(1 << (self._failures - 1))
        return min(backoff, self._policy.max_backoff_seconds) * random.uniform(0.5, 1.0)  # noqa: S311


class StallDetector:
    """Detects a source that sends just enough bytes to keep the connection from timing out."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._window_seconds = policy.timeout_seconds
        self._min_bytes = policy.min_bytes_per_second * policy.timeout_seconds
        self._window_start = time.monotonic()
        self._window_bytes = 0

    def is_too_slow_after(self, n_bytes: int) -> bool:
        """Count received bytes; True when a whole window brought too few."""
        self._window_bytes += n_bytes
        if time.monotonic() - self._window_start < self._window_seconds:
            return False
        if self._window_bytes < self._min_bytes:
            return True
        self._window_start, self._window_bytes = time.monotonic(), 0
        return False
