"""The guard: a small process that ends the stack when the supervisor is killed.

It reads lines from a pipe whose other end only the supervisor holds: `+pid` when a service has
started, `-pid` when it has ended. The pipe closes when the supervisor ends, for whatever reason.
The guard then asks the services that still run to end, kills those that do not, and removes the
files named on its command line.

It inherits the stack's lock, so the next `up` waits until the guard is done.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable

TERMINATE_SECONDS = 3.0  # the time between SIGTERM and SIGKILL
POLL_SECONDS = 0.02


def main(files: Iterable[str]) -> None:
    """Wait until the supervisor has ended, then clean up."""
    # Ctrl-C in a terminal and SIGTERM from a service manager are meant for the supervisor.
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    running = _follow()
    if running:
        _end_services(running)
    for file in files:
        try:
            os.unlink(file)  # noqa: PTH108  pathlib would be this process's largest import
        except OSError:
            continue


def _follow() -> list[int]:
    """Read the pipe until it closes; the pids of the running services in order of their start."""
    running: list[int] = []
    for line in sys.stdin:
        pid = int(line[1:])
        if line.startswith("+"):
            running.append(pid)
        elif pid in running:
            running.remove(pid)
    return running


def _end_services(running: list[int]) -> None:
    from services.cli.supervise.process_sessions import kill_session, session_members

    for pid in reversed(running):
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            continue
    deadline = time.monotonic() + TERMINATE_SECONDS
    while time.monotonic() < deadline and any(session_members(pid) for pid in running):
        time.sleep(POLL_SECONDS)
    for pid in running:
        kill_session(pid)


if __name__ == "__main__":
    main(sys.argv[1:])
