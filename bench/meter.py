"""CPU seconds and memory of a server and all its child processes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import psutil

# Part of a command line, and the role of the process. The first match wins.
_ROLES = (
    ("services.engine.runner", "runner"),
    ("services.engine", "engine"),
    ("services.api", "api"),
    ("gunicorn", "api"),
    ("services.puller", "puller"),
    ("services.cli", "supervisor"),
    ("redis-server", "redis"),
    ("valkey-server", "redis"),
    ("llama-server", "llama-server"),
    ("xllamacpp_server", "xllamacpp"),
    ("llama_cpp_server", "llama_cpp.server"),
)


@dataclass(frozen=True, slots=True)
class Usage:
    """The CPU time of a process tree during a measurement, by role."""

    seconds: float  # of wall clock
    cpu_seconds: Mapping[str, float]

    @property
    def total_cpu_seconds(self) -> float:
        """The sum over all processes."""
        return sum(self.cpu_seconds.values())


class Meter:
    """Measure a block: `with Meter(pid) as meter: ...`, then read `meter.usage`.

    A process that ends within the block is not counted.
    """

    usage: Usage

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def __enter__(self) -> Self:
        self._before = _read_cpu_seconds(self._pid)
        self._started_at = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        seconds = time.perf_counter() - self._started_at
        used: dict[str, float] = defaultdict(float)
        for process, cpu in _read_cpu_seconds(self._pid).items():
            used[_role_for(process)] += cpu - self._before.get(process, 0.0)
        self.usage = Usage(seconds, dict(used))


def resident_bytes(pid: int) -> int:
    """Memory of the tree; shared pages count once where the system reports that (PSS)."""
    total = 0
    for process in _list_processes(pid):
        try:
            memory = process.memory_full_info()
        except psutil.Error:
            continue
        total += getattr(memory, "pss", memory.rss)
    return total


def _list_processes(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _read_cpu_seconds(pid: int) -> dict[psutil.Process, float]:
    found: dict[psutil.Process, float] = {}
    for process in _list_processes(pid):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        found[process] = times.user + times.system
    return found


def _role_for(process: psutil.Process) -> str:
    try:
        command = " ".join(process.cmdline())
    except psutil.Error:
        return "other"
    return next((role for part, role in _ROLES if part in command), "other")
