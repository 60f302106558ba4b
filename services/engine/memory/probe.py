"""How much memory there is and how much of it is free, measured on the machine.

    host    the smaller of the system's available memory and, over the cgroups (v2 or v1) that this
            process is in, limit - use
    cudaN   from NVML, one pool for each device, numbered as NVML numbers them

A cgroup's use includes page cache, which the kernel gives back on demand. It counts as free here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import psutil

HOST = "host"
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")
_NO_LIMIT = 1 << 60  # v1 writes a huge number for "no limit"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MemoryPool:
    """Main memory, or the memory of one device."""

    name: str  # "host", "cuda0", ...
    kind: str  # "host" or "cuda"
    total_bytes: int
    free_bytes: int
    label: str = ""  # for people, e.g. "NVIDIA H200"


class MemoryProbe(Protocol):
    """Measures the memory of the machine."""

    def measure_pools(self) -> tuple[MemoryPool, ...]:
        """Every pool, the host first. Takes well under a millisecond for each pool."""


def measure_free_bytes(probe: MemoryProbe) -> dict[str, int]:
    """The free bytes of every pool, by the pool's name."""
    return {pool.name: pool.free_bytes for pool in probe.measure_pools()}


class SystemProbe:
    """The real machine. Opens NVML when it is created; without NVML the host is the only pool."""

    def __init__(
        self,
        cgroups: Path = _CGROUPS,
        own_cgroups: Path = _OWN_CGROUPS,
        open_nvml: Callable[[], Any] | None = None,
    ) -> None:
        self._nvml = (open_nvml or _open_nvml)()
        self._devices: dict[int, MemoryPool] = {}  # as last measured
        self._cgroups = cgroups
        self._own_cgroups = own_cgroups

    def measure_pools(self) -> tuple[MemoryPool, ...]:
        """See MemoryProbe."""
        memory = psutil.virtual_memory()
        total, free = int(memory.total), int(memory.available)
        cgroup = read_cgroup_memory(self._cgroups, self._own_cgroups)
        if cgroup is not None:
            total, free = min(total, cgroup[0]), min(free, cgroup[1])
        return (MemoryPool(HOST, "host", total, free, "main memory"), *self._measure_devices())

    def _measure_devices(self) -> list[MemoryPool]:
        if self._nvml is None:
            return []
        try:
            count = int(self._nvml.nvmlDeviceGetCount())
        except self._nvml.NVMLError as error:
            count = len(self._devices)
            logger.warning("GPUs cannot be counted", extra={"reason": str(error)})
        for number in range(count):
            try:
                self._devices[number] = _measure_device(self._nvml, number)
            except self._nvml.NVMLError as error:
                self._devices[number] = self._without_free_memory(number, error)
        return [self._devices[number] for number in range(count)]

    def _without_free_memory(self, number: int, error: Exception) -> MemoryPool:
        """A device that cannot be measured, such as a lost one: nothing more is put on it."""
        last = self._devices.get(number) or MemoryPool(f"cuda{number}", "cuda", 0, 0)
        if last.free_bytes or not last.total_bytes:
            logger.warning(
                "GPU cannot be measured", extra={"pool": last.name, "reason": str(error)}
            )
        return replace(last, free_bytes=0)


def read_cgroup_memory(root: Path, own: Path) -> tuple[int, int] | None:
    """The smallest limit and the smallest free bytes over the memory cgroups of this process.

    None when no cgroup sets a limit. `root` is where cgroups are mounted; `own` is a file like
    `/proc/self/cgroup`.
    """
    found = [memory for folder in _find_cgroup_folders(root, own) if (memory := _read_one(folder))]
    if not found:
        return None
    return min(limit for limit, _ in found), min(free for _, free in found)


def _find_cgroup_folders(root: Path, own: Path) -> list[Path]:
    """This process's memory cgroups and all their parents: each of them limits it."""
    found: list[Path] = []
    for line in _read(own).splitlines():
        number, controllers, path = line.split(":", 2)
        if number != "0" and "memory" not in controllers.split(","):
            continue
        base = root if number == "0" else root / "memory"
        folder = base / path.lstrip("/")
        # In a container the path may be the host's, which is not mounted: the root is ours then.
        found.extend(f for f in (folder, *folder.parents) if f.is_relative_to(base))
    return found


def _read_one(folder: Path) -> tuple[int, int] | None:
    """(limit, free) of one cgroup, from the files of either version."""
    stat = _read_stat(folder / "memory.stat")
    limit = _read_number(folder / "memory.max")
    used = _read_number(folder / "memory.current")
    cache = stat.get("file", 0) - stat.get("shmem", 0)
    if limit is None:
        limit = _read_number(folder / "memory.limit_in_bytes")
        used = _read_number(folder / "memory.usage_in_bytes")
        cache = stat.get("total_cache", 0) - stat.get("total_shmem", 0)
    if limit is None or used is None or limit >= _NO_LIMIT:
        return None
    return limit, min(max(limit - used + max(cache, 0), 0), limit)


def _read_number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdigit() else None


def _read_stat(path: Path) -> Mapping[str, int]:
    pairs = (line.split() for line in _read(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _open_nvml() -> Any:
    """The pynvml module, initialised; None without the module or the driver."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except ImportError:
        return None
    except pynvml.NVMLError as error:
        logger.info("no NVIDIA driver", extra={"reason": str(error)})
        return None
    return pynvml


def _measure_device(nvml: Any, number: int) -> MemoryPool:
    handle = nvml.nvmlDeviceGetHandleByIndex(number)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    label = nvml.nvmlDeviceGetName(handle)
    return MemoryPool(
        name=f"cuda{number}",
        kind="cuda",
        total_bytes=int(memory.total),
        free_bytes=int(memory.free),
        label=label if isinstance(label, str) else label.decode(),
    )
