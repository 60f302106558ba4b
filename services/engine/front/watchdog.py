"""Ends the front when its event loop hangs: whoever started it then starts a new one.

Container engines mark a hung service unhealthy and leave it running, so it has to see to that
itself. The runners notice their pipe's end and exit too.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import threading

HUNG_SECONDS = 60.0
EXIT_STATUS = 70  # EX_SOFTWARE


class Watchdog:
    """A thread that asks the loop for a sign of life."""

    def __init__(self, loop: asyncio.AbstractEventLoop, hung_seconds: float) -> None:
        self._loop = loop
        self._hung_seconds = hung_seconds
        self._is_over = threading.Event()

    @classmethod
    def start(
        cls, loop: asyncio.AbstractEventLoop, *, hung_seconds: float = HUNG_SECONDS
    ) -> Watchdog:
        """Begin to watch."""
        watchdog = cls(loop, hung_seconds)
        threading.Thread(target=watchdog._watch, name="watchdog", daemon=True).start()
        return watchdog

    def stop(self) -> None:
        """The loop is about to end by itself."""
        self._is_over.set()

    def _watch(self) -> None:
        while not self._is_over.wait(self._hung_seconds / 4):
            answered = threading.Event()
            try:
                self._loop.call_soon_threadsafe(answered.set)
            except RuntimeError:  # the loop is closed
                return
            if not answered.wait(self._hung_seconds) and not self._is_over.is_set():
                # Logging may hang with the loop; this writes to stderr and nothing else.
                faulthandler.dump_traceback()
                os._exit(EXIT_STATUS)
