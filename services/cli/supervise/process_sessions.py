"""End processes by the session they belong to.

Every service is the leader of a session of its own, so a session is a service with everything it
started: gunicorn's workers, RQ's work horse, the engine's runners. Only a process that made a
session of its own escapes; `kill_processes_with_environment` finds those, and what a killed stack left, by environment.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Mapping

import psutil


def session_members(session: int) -> list[int]:
    """The processes of a session that still run."""
    return [pid for pid in psutil.pids() if _session_of(pid) == session and not _is_zombie(pid)]


def kill_session(session: int) -> int:
    """Kill what is left of a session; how many there were."""
    found = session_members(session)
    _kill(found)
    return len(found)


def kill_processes_with_environment(marks: Mapping[str, str], *, but: Iterable[int] = ()) -> int:
    """Kill our processes whose environment holds all of these values; how many there were."""
    spared = {os.getpid(), *but}
    found = [p.pid for p in psutil.process_iter() if p.pid not in spared and _bears(p, marks)]
    _kill(found)
    return len(found)


def _bears(process: psutil.Process, marks: Mapping[str, str]) -> bool:
    try:
        if process.uids().real != os.getuid():
            return False
        environment = process.environ()
    except (psutil.Error, OSError):
        return False
    return all(environment.get(name) == value for name, value in marks.items())


def _session_of(pid: int) -> int | None:
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
