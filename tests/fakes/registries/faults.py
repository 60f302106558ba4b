"""Planned faults of the loopback servers."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

ALWAYS = 1 << 30


@dataclass(frozen=True)
class Fault:
    """A fault in `times` responses to requests whose path contains `path_part`."""

    path_part: str = ""
    times: int = 1
    after: int = 0  # the number of matching requests that succeed before
    status: int | None = None
    retry_after: str | None = None
    rate_limit: str | None = None
    cut_at: int | None = None  # close the connection after this many bytes of the body
    stall_at: int | None = None  # send this many bytes, then nothing until the client disconnects
    drips: bool = False  # send one byte every 20 ms
    flip_at: int | None = None  # a wrong byte at this offset of the file
    length_off_by: int = 0  # added to the announced size of the file
    ignores_range: bool = False  # answer 200 with the whole file
    etag: str | None = None  # empty: no ETag
    shifts_range: bool = False  # answer 206 with another range than requested


@dataclass
class FaultPlan:
    """Faults in order: a request gets the first that matches and is not used up."""

    faults: list[Fault] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[int, int] = {}

    def take(self, path: str) -> Fault:
        with self._lock:
            for index, fault in enumerate(self.faults):
                if fault.path_part not in path:
                    continue
                count = self._counts.get(index, 0)
                if count >= fault.after + fault.times:
                    continue
                self._counts[index] = count + 1
                if count >= fault.after:
                    return fault
        return Fault()
