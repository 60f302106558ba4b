"""Decide when a job whose source does not answer is tried again, and when it is given up. Pure.

An outage ends by itself, so it fails no job before a day has passed without a byte. The waits grow
with the outage, but stay short enough that a job continues within a minute after its end.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_OUTAGE_SECONDS = 24 * 3600.0
_MIN_WAIT_SECONDS = 5.0
_MAX_WAIT_SECONDS = 40.0
_ROOM_CHECK_SECONDS = 15.0
_MAX_REQUESTED_WAIT_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Postponement:
    """The next attempt, and the begin of the outage, both in unix seconds."""

    not_before: float
    unavailable_since: float | None


def plan_room_check(*, now: float, unavailable_since: float | None) -> Postponement:
    """When to look again for disk space that other downloads have reserved."""
    return Postponement(now + _ROOM_CHECK_SECONDS, unavailable_since)


def plan_next_attempt(
    *,
    now: float,
    unavailable_since: float | None,
    made_progress: bool,
    requested_wait_seconds: float | None,
) -> Postponement | None:
    """When to try again after an attempt failed at `now`; None: give up.

    `unavailable_since` is the begin of the outage as the last attempt left it; an attempt that
    brought bytes ends that outage.
    """
    since = now if made_progress or unavailable_since is None else unavailable_since
    lasted = now - since
    if lasted >= MAX_OUTAGE_SECONDS:
        return None
    wait = min(max(lasted / 4, _MIN_WAIT_SECONDS), _MAX_WAIT_SECONDS)
    wait = max(wait, min(requested_wait_seconds or 0.0, _MAX_REQUESTED_WAIT_SECONDS))
    return Postponement(not_before=now + wait, unavailable_since=since)
