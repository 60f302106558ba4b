"""How long a model is not started after its runners crashed or its loads failed.

1st crash  the next request starts a new runner at once
2nd, 3rd … 1 s, 2 s, 4 s, … 60 s
A runner that lived for a minute starts the count again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from services.shared.errors import EngineUnavailable, ModelLoadFailed, SpindllError

MAX_BACKOFF_SECONDS = 60.0
HEALTHY_LIFETIME_SECONDS = 60.0
_PROBLEM_SECONDS = 600.0  # for how long a crash is reported as a problem


@dataclass(frozen=True, slots=True)
class CrashRecord:
    """The crashes in a row of one model's runners; times of one clock, in seconds."""

    name: str
    crashes: int = 0
    crashed_at: float = 0.0  # the last one
    reason: str = ""  # the end of a sentence that starts with the model's name
    error: SpindllError | None = None  # of the load, when the last crash was a load that failed

    def add_crash(
        self,
        *,
        lived_seconds: float,
        reason: str,
        now: float,
        error: SpindllError | None = None,
    ) -> CrashRecord:
        """The record after one more crash."""
        crashes = 1 if lived_seconds >= HEALTHY_LIFETIME_SECONDS else self.crashes + 1
        return CrashRecord(self.name, crashes, now, reason, error)

    def remaining_seconds(self, now: float) -> float:
        """The seconds until the next start is allowed; 0 when it is."""
        return max(self.crashed_at + compute_backoff_seconds(self.crashes) - now, 0.0)


def compute_backoff_seconds(crashes: int) -> float:
    """The back-off after this many crashes in a row."""
    return 0.0 if crashes < 2 else min(2.0 ** min(crashes - 2, 16), MAX_BACKOFF_SECONDS)


class CrashBackoff:
    """The crash records of all models that have one, by key. Event loop only."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._records: dict[str, CrashRecord] = {}

    def record_crash(
        self,
        key: str,
        name: str,
        reason: str,
        *,
        lived_seconds: float,
        error: SpindllError | None = None,
    ) -> CrashRecord:
        """Count one more crash; the model's record after it."""
        before = self._records.get(key) or CrashRecord(name)
        now = self._clock()
        record = before.add_crash(lived_seconds=lived_seconds, reason=reason, now=now, error=error)
        self._records[key] = record
        return record

    def clear(self, key: str) -> None:
        """Forget the crashes of a model: it may start at once."""
        self._records.pop(key, None)

    def list_backing_off(self) -> list[str]:
        """The names of the models that may not start now."""
        now = self._clock()
        return [r.name for r in self._records.values() if r.remaining_seconds(now) > 0]

    def raise_if_backing_off(self, key: str) -> None:
        """Raise the error for clients while the model may not start.

        The ModelLoadFailed of the last load where that failed, else EngineUnavailable.
        """
        record = self._records.get(key)
        if record is None or (seconds := record.remaining_seconds(self._clock())) <= 0:
            return
        if isinstance(record.error, ModelLoadFailed):
            raise type(record.error)(record.error.message, retry_after_seconds=max(seconds, 1.0))
        raise EngineUnavailable(
            f"{record.name} {record.reason}, {record.crashes} times in a row",
            retry_after_seconds=max(seconds, 1.0),
        )

    def list_problems(self) -> list[str]:
        """The recent crashes, a sentence for each model. Older ones are forgotten."""
        now = self._clock()
        recent = {k: r for k, r in self._records.items() if now - r.crashed_at < _PROBLEM_SECONDS}
        self._records = recent
        return [_describe(record, now) for record in recent.values()]


def _describe(record: CrashRecord, now: float) -> str:
    times = "" if record.crashes == 1 else f" ({record.crashes} times in a row)"
    seconds = record.remaining_seconds(now)
    retry = f"; next try in {seconds:.0f} s" if seconds > 0 else ""
    return f"{record.name}: {record.reason}{times}{retry}"
