"""How fast and when downloads may run: a shared bandwidth limit, and allowed hours of the day.

The bytes of each second are counted in Redis, so that all workers together keep the limit.
Without a limit, nothing is counted and Redis is not used.
"""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass
from datetime import datetime
from typing import cast

import redis

from services.shared.errors import InvalidSettings
from services.shared.redis import redis_keys

_HOURS = re.compile(r"([01]?\d|2[0-3])(?::([0-5]\d))?-([01]?\d|2[0-3])(?::([0-5]\d))?")
_POLL_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Hours:
    """A part of each day in local time, in minutes since midnight.

    It spans midnight when `end` is before `start`.
    """

    start: int
    end: int

    @staticmethod
    def parse(text: str) -> Hours:
        """Parse `22-7` or `22:30-06:15`. Raises InvalidSettings."""
        match = _HOURS.fullmatch(text.strip())
        if match is None:
            raise InvalidSettings("hours are written like 22-7 or 22:30-06:15")
        first, first_minute, last, last_minute = (int(part or 0) for part in match.groups())
        return Hours(first * 60 + first_minute, last * 60 + last_minute)

    def include(self, minute_of_day: int) -> bool:
        """Whether a minute of the day is inside; equal ends mean the whole day."""
        if self.start < self.end:
            return self.start <= minute_of_day < self.end
        return minute_of_day >= self.start or minute_of_day < self.end

    def __str__(self) -> str:
        return "-".join(f"{m // 60:02}:{m % 60:02}" for m in (self.start, self.end))


class Throttle:
    """Consulted before every piece and for every chunk; callable from any thread."""

    def __init__(
        self,
        client: redis.Redis | None = None,
        *,
        bytes_per_second: int | None = None,
        hours: Hours | None = None,
    ) -> None:
        self._redis = client
        self._bytes_per_second = bytes_per_second
        self._hours = hours

    @property
    def wait_reason(self) -> str | None:
        """Why downloads wait now, as a sentence for people; None when they may run."""
        now = datetime.now().astimezone()
        if self._hours is None or self._hours.include(now.hour * 60 + now.minute):
            return None
        return f"waiting for the allowed hours ({self._hours})"

    def limit_read(self, max_bytes: int) -> int:
        """The largest read, up to `max_bytes`, that keeps the flow even."""
        if self._bytes_per_second is None:
            return max_bytes
        return max(1024, min(max_bytes, self._bytes_per_second // 8))

    def wait_for_hours(self, halt: threading.Event) -> None:
        """Wait until downloads are allowed, or until `halt` is set."""
        while self.wait_reason is not None and not halt.wait(_POLL_SECONDS):
            pass

    def spend(self, n_bytes: int, halt: threading.Event) -> None:
        """Take bytes from this second's budget; wait for the next second when it is used up."""
        if self._bytes_per_second is None or self._redis is None:
            return
        while not halt.is_set():
            now = time.time()
            key = redis_keys.pull_bytes(int(now))
            try:
                with self._redis.pipeline() as pipe:
                    pipe.incrby(key, n_bytes)
                    pipe.expire(key, redis_keys.PULL_BYTES_SECONDS)
                    used = cast("int", pipe.execute()[0])
                # A chunk larger than a whole second's budget passes as the first of its second.
                if used <= self._bytes_per_second or used == n_bytes:
                    return
                self._redis.decrby(key, n_bytes)
            except redis.RedisError:
                # An outage of Redis must not stop a download: keep the limit for this thread alone.
                halt.wait(n_bytes / self._bytes_per_second)
                return
            halt.wait(int(now) + 1 - now)
