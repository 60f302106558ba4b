"""Keep a process as large as what it has in use, not as its worst moment was.

glibc returns by itself only what is free at the end of a heap. Under many short requests the free
rest lies scattered below blocks that live: the bytes in use stay the same while the process grows
(a runner under 64 streams from 73 to 80 MiB in five minutes; to 75 or 76 with this, and no further).
"""

from __future__ import annotations

import ctypes
import threading

from services.shared.periodic import start_periodic

TRIM_SECONDS = 20.0


def start_trimming(seconds: float = TRIM_SECONDS) -> threading.Event:
    """Return free pages to the system now and then, until the event is set.

    From a thread of its own: a look takes a fraction of a millisecond, without the interpreter's
    lock. Where the C library has no `malloc_trim` (it is not glibc) nothing runs.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        return threading.Event()
    return start_periodic(lambda: trim(ctypes.c_size_t(0)), seconds, name="trim")
