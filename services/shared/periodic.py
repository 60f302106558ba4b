"""Call a function periodically from a background thread."""

from __future__ import annotations

import threading
from collections.abc import Callable


def start_periodic(action: Callable[[], object], seconds: float, *, name: str) -> threading.Event:
    """Call `action` now and every so many seconds, in a daemon thread, until the event is set."""
    stopped = threading.Event()

    def run() -> None:
        action()
        while not stopped.wait(seconds):
            action()

    threading.Thread(target=run, name=name, daemon=True).start()
    return stopped
