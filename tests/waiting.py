"""Waiting for other processes: for a condition, with a deadline, never for a time."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import TypeVar

import psutil

SECONDS = 60.0
T = TypeVar("T")


def until(holds: Callable[[], T], what: str = "") -> T:
    """The condition's first true answer."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if answer := holds():
            return answer
        time.sleep(0.01)
    raise AssertionError(what or "did not come about in time")


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def runs(process: psutil.Process) -> bool:
    """A zombie does not: whoever adopted it has not looked yet."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def bearing(name: str, value: str) -> list[psutil.Process]:
    """The processes whose environment has this variable."""
    return [p for p in psutil.process_iter() if runs(p) and _bears(p, name, value)]


def _bears(process: psutil.Process, name: str, value: str) -> bool:
    try:
        return process.environ().get(name) == value
    except psutil.Error:
        return False
