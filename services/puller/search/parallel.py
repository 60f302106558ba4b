"""Run several blocking calls in parallel until a deadline, and abandon the late ones.

The threads are daemons: a source that does not answer must not keep the process from ending.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def run_parallel(
    calls: Sequence[Callable[[], T]], *, threads: int, deadline: float
) -> list[T | Exception | None]:
    """Return for each call its result, the exception that it raised, or None if it was too late.

    `deadline` is a time of `time.monotonic()`. No call starts after it.
    """
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, T | Exception]] = queue.SimpleQueue()
    for index in range(len(calls)):
        waiting.put(index)

    def work() -> None:
        while time.monotonic() < deadline:
            try:
                index = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((index, calls[index]()))
            except Exception as error:  # noqa: BLE001  the caller handles it
                done.put((index, error))

    for _ in range(min(threads, len(calls))):
        threading.Thread(target=work, name="parallel", daemon=True).start()
    results: list[T | Exception | None] = [None] * len(calls)
    for _ in calls:
        try:
            index, result = done.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        results[index] = result
    return results
