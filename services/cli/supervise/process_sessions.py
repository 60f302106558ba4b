"""End processes by the POSIX session they belong to.

Every service is the leader of a session of its own, so a session is a service with all processes
that it started: gunicorn's workers, RQ's work horse, the engine's runners. A process that created
its own session escapes. `kill_processes_with_environment` finds such processes, and those of a
killed stack, by an environment variable.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Mapping

import psutil


def session_members(session: int) -> list[int]:
    """The pids of a session's running processes."""
    return [pid for pid in psutil.pids() if _get_session(pid) == session and not _is_zombie(pid)]


def kill_session(session: int) -> int:
    """Kill the running processes of a session; how many there were."""
    found = session_members(session)
    _kill(found)
    return len(found)


def kill_processes_with_environment(
    variables: Mapping[str, str], *, exclude: Iterable[int] = ()
) -> int:
    """Kill this user's processes that have all of these variables; how many there were."""
    spared = {os.getpid(), *exclude}
    found = [
        p.pid
        for p in psutil.process_iter()
        if p.pid not in spared and _has_environment(p, variables)
    ]
    _kill(found)
    return len(found)


def _has_environment(process: psutil.Process, variables: Mapping[str, str]) -> bool:
    try:
        if process.uids().real != os.getuid():
            return False
        environment = process.environ()
    except (psutil.Error, OSError):
        return False
    return all(environment.get(name) == value for name, value in variables.items())


def _get_session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return None


def _is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue
