"""How much memory there is and how much of it is free, as the machine tells right now.

    host    min over the cgroups we are in (v2 or v1) of limit - use, and the system's available
    cudaN   NVML, per device, numbered as NVML numbers them

A cgroup's use counts page cache, which the kernel gives back when asked: it is not counted here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

HOST = "host"
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")
_NO_LIMIT = 1 << 60  # v1 writes a huge number for "none"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pool:
    """One place memory comes from."""

    name: str  # "host", "cuda0", ...
    kind: str  # "host" or "cuda"
    total_bytes: int
    free_bytes: int
    label: str = ""  # what a person calls it, e.g. "NVIDIA H200"


class Probe(Protocol):
    """Who knows the memory."""

    def pools(self) -> tuple[Pool, ...]:
        """Every pool, the host first, measured now. Takes well under a millisecond per pool."""


def free_bytes(probe: Probe) -> dict[str, int]:
    """The free bytes of every pool, by name, measured now."""
    return {pool.name: pool.free_bytes for pool in probe.pools()}


class SystemProbe:
    """The real machine. NVML is opened at construction; without it there is only the host."""

    def __init__(self, cgroups: Path = _CGROUPS, own_cgroups: Path = _OWN_CGROUPS) -> None:
        self._nvml = _open_nvml()
        self._cgroups = cgroups
        self._own_cgroups = own_cgroups

    def pools(self) -> tuple[Pool, ...]:
        """See Probe."""
        memory = psutil.virtual_memory()
        total, free = int(memory.total), int(memory.available)
        bound = cgroup_memory(self._cgroups, self._own_cgroups)
        if bound is not None:
            total, free = min(total, bound[0]), min(free, bound[1])
        return (Pool(HOST, "host", total, free, "main memory"), *self._devices())

    def _devices(self) -> list[Pool]:
        if self._nvml is None:
            return []
        return [_device(self._nvml, n) for n in range(self._nvml.nvmlDeviceGetCount())]


def cgroup_memory(root: Path, own: Path) -> tuple[int, int] | None:
    """(limit, free) in bytes of the tightest memory cgroup we are in; None where nothing limits."""
    bounds = [bound for folder in _cgroup_folders(root, own) if (bound := _bound(folder))]
    if not bounds:
        return None
    return min(limit for limit, _ in bounds), min(free for _, free in bounds)


def _cgroup_folders(root: Path, own: Path) -> list[Path]:
    """Our memory cgroups up to the root: every one of them limits us."""
    found: list[Path] = []
    for line in _read(own).splitlines():
        number, controllers, path = line.split(":", 2)
        if number != "0" and "memory" not in controllers.split(","):
            continue
        base = root if number == "0" else root / "memory"
        folder = base / path.lstrip("/")
        # In a container the path may be the host's, which we do not see: the root is ours then.
        found.extend(f for f in (folder, *folder.parents) if f.is_relative_to(base))
    return found


def _bound(folder: Path) -> tuple[int, int] | None:
    """(limit, free) of one cgroup folder, whichever version's files it has."""
    stat = _stat(folder / "memory.stat")
    limit = _number(folder / "memory.max")
    used = _number(folder / "memory.current")
    cache = stat.get("file", 0) - stat.get("shmem", 0)
    if limit is None:
        limit = _number(folder / "memory.limit_in_bytes")
        used = _number(folder / "memory.usage_in_bytes")
        cache = stat.get("total_cache", 0) - stat.get("total_shmem", 0)
    if limit is None or used is None or limit >= _NO_LIMIT:
        return None
    return limit, min(max(limit - used + max(cache, 0), 0), limit)


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdigit() else None


def _stat(path: Path) -> Mapping[str, int]:
    pairs = (line.split() for line in _read(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _open_nvml() -> Any:
    """The pynvml module, initialised; None where there is no driver to speak of."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except ImportError:
        return None
    except pynvml.NVMLError as error:
        logger.info("no NVIDIA driver", extra={"reason": str(error)})
        return None
    return pynvml


def _device(nvml: Any, number: int) -> Pool:
    handle = nvml.nvmlDeviceGetHandleByIndex(number)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    label = nvml.nvmlDeviceGetName(handle)
    return Pool(
        name=f"cuda{number}",
        kind="cuda",
        total_bytes=int(memory.total),
        free_bytes=int(memory.free),
        label=label if isinstance(label, str) else label.decode(),
    )
