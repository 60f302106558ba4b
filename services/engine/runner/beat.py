"""Tell the front every second that the process lives, and how long its backend has been busy."""

from __future__ import annotations

import threading
from collections.abc import Callable

from services.engine.runner.outbox import Outbox
from services.engine.runner.wire import BEAT_SECONDS, Beat


def start_beating(outbox: Outbox, beat: Callable[[], Beat]) -> threading.Event:
    """Send a beat now and every BEAT_SECONDS, from a thread of its own, until the event is set."""
    stopped = threading.Event()

    def run() -> None:
        outbox.send(beat())
        while not stopped.wait(BEAT_SECONDS):
            outbox.send(beat())

    threading.Thread(target=run, name="beat", daemon=True).start()
    return stopped
