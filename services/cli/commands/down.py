"""`down`: stop the stack and wait until its last process has ended."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

from services.cli.errors import CommandError
from services.cli.paths import StackPaths
from services.cli.supervise import state_file

# The services drain one after another; the supervisor kills a service that takes too long.
STOP_TIMEOUT_SECONDS = 600.0
# A stack that is being started holds the lock for a moment before it has a state file.
STATE_FILE_TIMEOUT_SECONDS = 5.0


def down(paths: StackPaths) -> None:
    """Stop the stack, if one is running. Raises CommandError when it does not end."""
    state = _wait_for_state(paths)
    if state is None:
        print("nothing is running", file=sys.stderr)
        return
    with contextlib.suppress(ProcessLookupError):  # it was killed, and its guard is cleaning up
        os.kill(state.pid, signal.SIGTERM)
    try:
        has_ended = state_file.wait_until_gone(paths, STOP_TIMEOUT_SECONDS)
    except KeyboardInterrupt:
        raise CommandError("the stack continues to stop in the background") from None
    if not has_ended:
        log = paths.log_path("supervisor")
        raise CommandError(f"the supervisor (process {state.pid}) has not ended; see {log}")
    print("stopped", file=sys.stderr)


def _wait_for_state(paths: StackPaths) -> state_file.StackState | None:
    """The state of the running stack, or None when none is running."""
    deadline = time.monotonic() + STATE_FILE_TIMEOUT_SECONDS
    while state_file.is_locked(paths):
        if state := state_file.read(paths):
            return state
        if time.monotonic() > deadline:
            raise CommandError(
                f"a process holds {paths.lock_file}, but there is no {paths.state_file.name}"
            )
        time.sleep(state_file.POLL_SECONDS)
    return None
