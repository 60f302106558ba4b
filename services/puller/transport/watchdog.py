"""End calls that last too long although bytes arrive now and then.

The timeout of a socket starts over with each byte. A source that sends one byte of a header in
every half minute would hold a worker for days, and no pause or cancel would reach it. One thread of
the process looks at all calls, and aborts those whose time is over.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_POLL_SECONDS = 0.5


@dataclass(eq=False, frozen=True, slots=True)
class _Call:
    deadline: float
    abort: Callable[[], None]


class Watchdog:
    """Limits how long calls last. Thread-safe; its thread starts with the first call."""

    def __init__(self) -> None:
        self._changed = threading.Condition()  # guards the fields below
        self._calls: set[_Call] = set()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def limit(self, seconds: float, abort: Callable[[], None]) -> Iterator[None]:
        """Run `abort` again and again once the block has lasted for so long, until it ends.

        `abort` must be quick, and make the block end. It never runs after the block.
        """
        call = _Call(time.monotonic() + seconds, abort)
        with self._changed:
            self._calls.add(call)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
                self._thread.start()
            elif len(self._calls) == 1:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._calls.remove(call)

    def _run(self) -> None:
        with self._changed:
            while True:
                self._changed.wait(_POLL_SECONDS if self._calls else None)
                now = time.monotonic()
                for call in self._calls:
                    if now >= call.deadline:
                        call.abort()
