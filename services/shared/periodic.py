"""Call a function periodically from a background thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)


def start_periodic(action: Callable[[], object], seconds: float, *, name: str) -> threading.Event:
    """Call `action` now and every `seconds`, in a daemon thread, until the event is set.

    An action that fails is logged, and called again the next time.
    """
    stopped = threading.Event()

    def act() -> None:
        try:
            action()
        except Exception:
            logger.exception("periodic action failed", extra={"action": name})

    def run() -> None:
        act()
        while not stopped.wait(seconds):
            act()

    threading.Thread(target=run, name=name, daemon=True).start()
    return stopped
