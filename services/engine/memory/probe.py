"""How much memory there is and how much of it is free, measured on the machine.

    host    the smaller of the system's available memory and, over the cgroups (v2 or v1) that this
            process is in, limit - use; on a Mac see macos.py
    cudaN   from NVML, one pool for each device that llama.cpp can use. The number is CUDA's, which
            depends on CUDA_VISIBLE_DEVICES; NVML is asked by the device's address on the PCI bus
    others  devices that NVML does not know, or only as a part of a larger one: their free memory
            cannot be measured, and counts as what no model has been promised

A device that llama.cpp cannot use has no pool, such as an NVIDIA GPU beside a build for the CPU.
A cgroup's use includes page cache, which the kernel gives back on demand. It counts as free here.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import psutil

from services.engine.core import HOST, Device
from services.engine.memory.macos import MacMemory

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")
_NO_LIMIT = 1 << 60  # v1 writes a huge number for "no limit"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MemoryPool:
    """Main memory, or the memory of one device."""

    name: str  # "host", "cuda0", ...
    kind: str  # "host", "cuda", "rocm" or "vulkan"
    total_bytes: int
    free_bytes: int  # the total where it is not measured
    label: str = ""  # for people, e.g. "NVIDIA H200"
    is_measured: bool = True


class MemoryProbe(Protocol):
    """Measures the memory of the machine."""

    def measure_pools(self) -> tuple[MemoryPool, ...]:
        """Every pool, the host first. Takes well under a millisecond for each pool.

        On a Mac a tool of the system is run, which takes some milliseconds.
        """

    def measure_process(self, pid: int) -> int | None:
        """The bytes of main memory that belong to a process and to no file.

        None where the system does not report them.
        """


def measure_free_bytes(probe: MemoryProbe) -> dict[str, int]:
    """The free bytes of every pool that is measured, by the pool's name."""
    return {pool.name: pool.free_bytes for pool in probe.measure_pools() if pool.is_measured}


class SystemProbe:
    """The real machine, with these devices. Opens NVML when it is created."""

    def __init__(
        self,
        devices: Sequence[Device] = (),
        *,
        cgroups: Path = _CGROUPS,
        own_cgroups: Path = _OWN_CGROUPS,
        open_nvml: Callable[[], Any] | None = None,
        mac: MacMemory | None = None,
    ) -> None:
        self._devices = [device for device in devices if not device.uses_main_memory]
        self._nvml: Any = (open_nvml or _open_nvml)() if self._devices else None
        # As last measured.
        self._pools = {device.name: self._build_pool(device) for device in self._devices}
        self._cgroups = cgroups
        self._own_cgroups = own_cgroups
        self._mac = mac if mac or sys.platform != "darwin" else MacMemory()

    def measure_pools(self) -> tuple[MemoryPool, ...]:
        """See MemoryProbe."""
        memory = psutil.virtual_memory()
        total, free = int(memory.total), int(memory.available)
        if self._mac is not None:
            total, free = self._mac.measure(total, free)
        cgroup = read_cgroup_memory(self._cgroups, self._own_cgroups)
        if cgroup is not None:
            total, free = min(total, cgroup[0]), min(free, cgroup[1])
        for device in self._devices:
            pool = self._pools[device.name]
            if pool.is_measured:
                self._pools[device.name] = self._measure(device, pool)
        return (MemoryPool(HOST, "host", total, free, "main memory"), *self._pools.values())

    def measure_process(self, pid: int) -> int | None:
        """See MemoryProbe."""
        try:
            memory = psutil.Process(pid).memory_info()
        except psutil.Error:
            return None
        shared = getattr(memory, "shared", None)
        return None if shared is None else max(int(memory.rss) - int(shared), 0)

    def _build_pool(self, device: Device) -> MemoryPool:
        """The device's pool before the first measurement."""
        total = device.total_bytes
        pool = MemoryPool(device.name, device.kind, total, total, device.label, is_measured=False)
        if self._nvml is None or device.pci_bus_id is None or device.kind != "cuda":
            return pool
        try:
            nvml_total, _ = self._read_memory(device)
        except self._nvml.NVMLError as error:
            logger.warning(
                "free memory of a GPU unknown", extra={"pool": device.name, "reason": str(error)}
            )
            return pool
        # A part of a GPU (MIG) has the address of the whole one, whose free memory is not its own.
        # NVML's total is a little larger than CUDA's.
        is_part = 0 < total * 5 // 4 < nvml_total
        return pool if is_part else replace(pool, total_bytes=nvml_total, is_measured=True)

    def _measure(self, device: Device, last: MemoryPool) -> MemoryPool:
        try:
            total, free = self._read_memory(device)
        except self._nvml.NVMLError as error:
            if last.free_bytes:
                logger.warning(
                    "GPU cannot be measured", extra={"pool": last.name, "reason": str(error)}
                )
            return replace(last, free_bytes=0)  # a lost one, perhaps: nothing more is put on it
        return replace(last, total_bytes=total, free_bytes=free)

    def _read_memory(self, device: Device) -> tuple[int, int]:
        handle = self._nvml.nvmlDeviceGetHandleByPciBusId(device.pci_bus_id)
        memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
        return int(memory.total), int(memory.free)


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
