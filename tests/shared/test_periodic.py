from __future__ import annotations

import queue
import threading

from services.shared.periodic import start_periodic

WAIT_SECONDS = 10


def test_the_action_is_repeated_until_the_event_is_set() -> None:
    before = set(threading.enumerate())
    acts: queue.Queue[None] = queue.Queue()
    stopped = start_periodic(lambda: acts.put(None), 0.01, name="again")
    (thread,) = set(threading.enumerate()) - before
    for _ in range(3):
        acts.get(timeout=WAIT_SECONDS)
    stopped.set()
    thread.join(WAIT_SECONDS)

    assert thread.name == "again"
    assert not thread.is_alive()


def test_an_action_that_fails_is_repeated() -> None:
    acts: queue.Queue[None] = queue.Queue()

    def fail() -> None:
        acts.put(None)
        raise RuntimeError("once more")

    stopped = start_periodic(fail, 0.01, name="failing")
    for _ in range(3):
        acts.get(timeout=WAIT_SECONDS)
    stopped.set()


def test_the_first_action_does_not_wait_for_the_interval() -> None:
    acts: queue.Queue[None] = queue.Queue()
    stopped = start_periodic(lambda: acts.put(None), 3600, name="once")

    acts.get(timeout=WAIT_SECONDS)
    stopped.set()
    assert acts.empty()
