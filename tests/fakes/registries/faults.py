"""What goes wrong with which answer: a plan the loopback servers follow."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

ALWAYS = 1 << 30


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong, `times` times, with requests whose path contains `on`."""

    on: str = ""
    times: int = 1
    after: int = 0  # so many matching requests go well first
    status: int | None = None
    retry_after: str | None = None
    cut_at: int | None = None  # close the connection after so many bytes of the body
    stall_at: int | None = None  # send so many bytes, then nothing until the client leaves
    drip: bool = False  # a byte now and then
    flip_at: int | None = None  # a wrong byte at this offset of the file
    length_off_by: int = 0  # announce another size of the file
    no_range: bool = False  # answer 200 with the whole file
    etag: str | None = None
    shifted_range: bool = False  # a 206 with other bytes than asked for


@dataclass
class FaultPlan:
    """Faults in order; the first that matches and is not used up happens."""

    faults: list[Fault] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[int, int] = {}

    def take(self, path: str) -> Fault:
        with self._lock:
            for index, fault in enumerate(self.faults):
                if fault.on not in path:
                    continue
                seen = self._seen.get(index, 0)
                if seen >= fault.after + fault.times:
                    continue
                self._seen[index] = seen + 1
                if seen >= fault.after:
                    return fault
        return Fault()
