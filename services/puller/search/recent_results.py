"""Results that are kept for some minutes, so that the same question is not asked again."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

MAX_RESULTS = 500


class RecentResults(Generic[K, V]):
    """The newest results by key. Thread-safe."""

    def __init__(self, keep_seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._keep_seconds = keep_seconds
        self._clock = clock
        self._lock = threading.Lock()  # guards _results
        self._results: OrderedDict[K, tuple[float, V]] = OrderedDict()

    def get(self, key: K) -> V | None:
        """A result that is still kept, else None."""
        with self._lock:
            found = self._results.get(key)
            if found is None or self._clock() - found[0] > self._keep_seconds:
                return None
            return found[1]

    def put(self, key: K, result: V) -> None:
        """Keep a result from now on; the oldest goes when there are too many."""
        with self._lock:
            self._results[key] = (self._clock(), result)
            self._results.move_to_end(key)
            while len(self._results) > MAX_RESULTS:
                self._results.popitem(last=False)
