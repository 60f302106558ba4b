"""Ends the stack when its supervisor is killed. A process of its own, the smallest there can be.

It reads lines from a pipe that only the supervisor holds: `+pid` a service started, `-pid` it ended.
The end of the pipe is the end of the supervisor, however that came about. What still runs then is
asked to end, and killed when it does not; the files named on the command line are removed.

It also holds the stack's lock, by inheritance, so that the next `up` waits until it is done.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable

ASK_SECONDS = 3.0
POLL_SECONDS = 0.02


def main(files: Iterable[str]) -> None:
    """Wait for the supervisor's end, then clean up after it."""
    # A terminal's Ctrl-C is for the supervisor, and a service manager's SIGTERM too.
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    running = _follow()
    if running:
        _end(running)
    for file in files:
        try:
            os.unlink(file)  # noqa: PTH108  pathlib would be the largest import of this process
        except OSError:
            continue


def _follow() -> list[int]:
    """The services that run at the end of the pipe, in the order they were started."""
    running: list[int] = []
    for line in sys.stdin:
        pid = int(line[1:])
        if line.startswith("+"):
            running.append(pid)
        elif pid in running:
            running.remove(pid)
    return running


def _end(running: list[int]) -> None:
    from services.cli.supervise.process_sessions import kill_session, session_members

    for pid in reversed(running):
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            continue
    deadline = time.monotonic() + ASK_SECONDS
    while time.monotonic() < deadline and any(session_members(pid) for pid in running):
        time.sleep(POLL_SECONDS)
    for pid in running:
        kill_session(pid)


if __name__ == "__main__":
    main(sys.argv[1:])
