"""How long to leave a model alone whose runner keeps dying, or that keeps failing to load.

1st death  the next request starts a new runner at once
2nd, 3rd … 1 s, 2 s, 4 s, … 60 s
a runner that lived for a minute starts the count anew
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from services.shared.errors import EngineUnavailable, ModelLoadFailed, SpindllError

MOST_SECONDS = 60.0
HEALTHY_SECONDS = 60.0
_TOLD_SECONDS = 600.0  # a problem is of interest for this long


@dataclass(frozen=True, slots=True)
class Streak:
    """Deaths in a row of one model's runners; times of one clock, in seconds."""

    name: str
    deaths: int = 0
    died_at: float = 0.0
    why: str = ""  # as the end of a sentence about the model
    error: SpindllError | None = None  # of the load that failed, when that was the death

    def next(
        self, *, lived_seconds: float, why: str, now: float, error: SpindllError | None = None
    ) -> Streak:
        """One more runner has ended that should not have."""
        deaths = 1 if lived_seconds >= HEALTHY_SECONDS else self.deaths + 1
        return Streak(self.name, deaths, now, why, error)

    def pause_left(self, now: float) -> float:
        """Seconds until the next try; 0: now."""
        return max(self.died_at + pause_seconds(self.deaths) - now, 0.0)


def pause_seconds(deaths: int) -> float:
    """The pause after so many deaths in a row."""
    return 0.0 if deaths < 2 else min(2.0 ** min(deaths - 2, 16), MOST_SECONDS)


class Streaks:
    """The streak of every model that has one, by key. Event loop only."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._streaks: dict[str, Streak] = {}

    def died(
        self,
        key: str,
        name: str,
        why: str,
        *,
        lived_seconds: float,
        error: SpindllError | None = None,
    ) -> Streak:
        """Count one more death."""
        before = self._streaks.get(key) or Streak(name)
        now = self._clock()
        streak = before.next(lived_seconds=lived_seconds, why=why, now=now, error=error)
        self._streaks[key] = streak
        return streak

    def forgive(self, key: str) -> None:
        """A person asked for it by name: try at once."""
        self._streaks.pop(key, None)

    def backing_off(self) -> list[str]:
        """Names of the models left alone now."""
        now = self._clock()
        return [s.name for s in self._streaks.values() if s.pause_left(now) > 0]

    def require_no_pause(self, key: str) -> None:
        """Raises what to tell a client while the model is left alone.

        ModelLoadFailed as it was where loading failed, else EngineUnavailable.
        """
        streak = self._streaks.get(key)
        if streak is None or (left := streak.pause_left(self._clock())) <= 0:
            return
        if isinstance(streak.error, ModelLoadFailed):
            raise type(streak.error)(streak.error.message, retry_after_seconds=max(left, 1.0))
        raise EngineUnavailable(
            f"{streak.name} {streak.why}, {streak.deaths} times in a row",
            retry_after_seconds=max(left, 1.0),
        )

    def problems(self) -> list[str]:
        """What a person should know, a sentence each; the old is forgotten."""
        now = self._clock()
        recent = {k: s for k, s in self._streaks.items() if now - s.died_at < _TOLD_SECONDS}
        self._streaks = recent
        return [_sentence(streak, now) for streak in recent.values()]


def _sentence(streak: Streak, now: float) -> str:
    times = "" if streak.deaths == 1 else f" ({streak.deaths} times in a row)"
    left = streak.pause_left(now)
    when = f"; next try in {left:.0f} s" if left > 0 else ""
    return f"{streak.name}: {streak.why}{times}{when}"
