"""Ends the front when its event loop hangs, so that its supervisor starts a new one.

A container engine marks a hung service as unhealthy but leaves it running, so the front has to end
itself. The runners see the end of their pipes and exit too.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import threading

HUNG_SECONDS = 60.0
EXIT_STATUS = 70  # EX_SOFTWARE


class Watchdog:
    """A thread that checks that the event loop runs callbacks."""

    def __init__(self, loop: asyncio.AbstractEventLoop, hung_seconds: float) -> None:
        self._loop = loop
        self._hung_seconds = hung_seconds
        self._is_stopped = threading.Event()

    @classmethod
    def start(
        cls, loop: asyncio.AbstractEventLoop, *, hung_seconds: float = HUNG_SECONDS
    ) -> Watchdog:
        """Start to check, from a thread of its own."""
        watchdog = cls(loop, hung_seconds)
        threading.Thread(target=watchdog._run, name="watchdog", daemon=True).start()
        return watchdog

    def stop(self) -> None:
        """Stop checking: the loop is about to end."""
        self._is_stopped.set()

    def _run(self) -> None:
        while not self._is_stopped.wait(self._hung_seconds / 4):
            answered = threading.Event()
            try:
                self._loop.call_soon_threadsafe(answered.set)
            except RuntimeError:  # the loop is closed
                return
            if not answered.wait(self._hung_seconds) and not self._is_stopped.is_set():
                # Logging may hang with the loop; this writes to stderr and does nothing else.
                faulthandler.dump_traceback()
                os._exit(EXIT_STATUS)
