"""What threads beside the one that computes may take of the processor."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress

_NICE = 10  # of 19: a tenth of the share of a thread that computes


def yield_to_computation() -> None:
    """Give this thread what computing leaves over: a step waits for the slowest of its threads.

    On Linux, where a thread has a niceness of its own. It cannot be taken back.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
