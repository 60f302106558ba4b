"""`down`: stop the stack and wait for its last process."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

from services.cli.errors import CommandError
from services.cli.paths import StackPaths
from services.cli.supervise import state_file

# Every service may drain once, one after another; the supervisor kills what takes longer.
LONGEST_SECONDS = 600.0
YOUNGEST_SECONDS = 5.0


def down(paths: StackPaths) -> None:
    """Nothing to stop is fine. Problem when it does not end."""
    state = _running(paths)
    if state is None:
        print("nothing is running", file=sys.stderr)
        return
    with contextlib.suppress(ProcessLookupError):  # it was killed: its guard is cleaning up
        os.kill(state.pid, signal.SIGTERM)
    try:
        gone = state_file.wait_until_gone(paths, LONGEST_SECONDS)
    except KeyboardInterrupt:
        raise CommandError("it goes on stopping by itself") from None
    if not gone:
        raise CommandError(f"process {state.pid} does not end; see {paths.log_path('supervisor')}")
    print("stopped", file=sys.stderr)


def _running(paths: StackPaths) -> state_file.StackState | None:
    """The stack that runs; one that is just being started has no state for a moment."""
    deadline = time.monotonic() + YOUNGEST_SECONDS
    while state_file.is_locked(paths):
        if state := state_file.read(paths):
            return state
        if time.monotonic() > deadline:
            raise CommandError(f"a stack without a state file has {paths.lock}")
        time.sleep(state_file.POLL_SECONDS)
    return None
