"""Wait for other processes: for a condition with a deadline, not for a fixed time."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import TypeVar

import psutil

SECONDS = 60.0
T = TypeVar("T")


def until(holds: Callable[[], T | None], what: str = "") -> T:
    """Poll a condition; its first true result."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if answer := holds():
            return answer
        time.sleep(0.01)
    raise AssertionError(what or "the condition did not become true in time")


def free_port() -> int:
    """A TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_running(process: psutil.Process) -> bool:
    """Whether a process is running. A zombie is not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def processes_with_environment(name: str, value: str) -> list[psutil.Process]:
    """The running processes whose environment has this variable with this value."""
    return [p for p in psutil.process_iter() if is_running(p) and _has_variable(p, name, value)]


def _has_variable(process: psutil.Process, name: str, value: str) -> bool:
    try:
        return process.environ().get(name) == value
    except psutil.Error:
        return False
