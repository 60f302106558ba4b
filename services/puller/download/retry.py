"""When a fetcher tries again, when it gives up, and when a source is too slow to be waited for."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """How patient and how greedy a download is."""

    connections: int = 4
    timeout_seconds: float = 30.0  # without a byte
    slowest_bytes_per_second: int = 1024  # over one timeout; slower counts as stalled
    tries: int = 10  # in a row, each bringing less than `worth_bytes`
    worth_bytes: int = 64 << 10
    backoff_seconds: float = 0.5  # doubles with each failure
    longest_backoff_seconds: float = 30.0
    longest_retry_after_seconds: float = 300.0


class Patience:
    """The failures of one fetcher, or of one question asked again and again."""

    def __init__(self, limits: Limits, done_bytes: int = 0) -> None:
        self._limits = limits
        self._failures = 0
        self._best = done_bytes

    def wait_seconds(
        self, retry_after_seconds: float | None, *, done_bytes: int = 0
    ) -> float | None:
        """How long to wait before the next try; None when it is time to give up.

        Tries between which enough bytes arrived do not add up.
        """
        if done_bytes - self._best >= self._limits.worth_bytes:
            self._failures, self._best = 0, done_bytes
        self._failures += 1
        if self._failures >= self._limits.tries:
            return None
        if retry_after_seconds is not None:
            return min(retry_after_seconds, self._limits.longest_retry_after_seconds)
        backoff = self._limits.backoff_seconds * float(1 << (self._failures - 1))
        return min(backoff, self._limits.longest_backoff_seconds) * random.uniform(0.5, 1.0)  # noqa: S311


class SlowWatch:
    """Notices a source that drips just enough bytes to keep the connection from timing out."""

    def __init__(self, limits: Limits) -> None:
        self._seconds = limits.timeout_seconds
        self._enough = limits.slowest_bytes_per_second * limits.timeout_seconds
        self._since = time.monotonic()
        self._bytes = 0

    def is_too_slow(self, n_bytes: int) -> bool:
        """So much arrived; whether it was too little for too long."""
        self._bytes += n_bytes
        if time.monotonic() - self._since < self._seconds:
            return False
        if self._bytes < self._enough:
            return True
        self._since, self._bytes = time.monotonic(), 0
        return False
