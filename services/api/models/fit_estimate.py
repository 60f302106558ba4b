"""Would a model that is not here fit this box? A pure estimate from the size of its files.

The engine's own plan needs the file; before a download there is only its size. The rule of thumb,
on the engine's side of caution (services/engine/memory/estimate.py):

    need = files + KV of 4096 tokens at 128 KiB each        as an 8B model with f16 keys and values
                 + compute, a tenth of the files, >= 128 MiB
                 + 192 MiB for the process, and 512 MiB for the driver's context on accelerators

It is compared with the room as it would be with no other model loaded, since idle ones give way:

    room = min(budget, free + what models use now)          of the accelerators, else of the host

| fits | when |
|-|-|
| yes | need <= room; or a GGUF whose rest finds room in main memory, beside accelerators |
| no | not even files and process fit all the memory that may be used |
| unknown | in between, where the engine shrinks the context; or a number is missing |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

_MIB = 1 << 20
KV_BYTES = 4096 * (128 << 10)
LEAST_COMPUTE_BYTES = 128 * _MIB
PROCESS_BYTES = 192 * _MIB
DEVICE_CONTEXT_BYTES = 512 * _MIB
_HOST = "host"


class Fits(Enum):
    """Whether a model would run here."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Device:
    """A place memory comes from, as the engine reports it; `kind` is host, cuda or metal."""

    kind: str
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """The engine's memory. Budget and use are the accelerators', or the host's without any."""

    devices: Sequence[Device]
    budget_bytes: int
    used_bytes: int

    @property
    def has_accelerator(self) -> bool:
        """Whether models live beside the main memory rather than in it."""
        return any(device.kind != _HOST for device in self.devices)

    @property
    def room_bytes(self) -> int:
        """What models may take where they are fast, if none were loaded."""
        primary = [d for d in self.devices if (d.kind != _HOST) == self.has_accelerator]
        free = sum(device.free_bytes for device in primary)
        return min(self.budget_bytes, free + self.used_bytes)

    @property
    def spare_host_bytes(self) -> int:
        """Main memory for layers that no accelerator holds; a tenth of it is left to others."""
        if not self.has_accelerator:
            return 0
        host = [device for device in self.devices if device.kind == _HOST]
        return sum(max(device.free_bytes - device.total_bytes // 10, 0) for device in host)


def estimate_bytes(size_bytes: int, *, has_accelerator: bool) -> int:
    """The memory a model of such files will probably take, in bytes."""
    compute = max(size_bytes // 10, LEAST_COMPUTE_BYTES)
    device = DEVICE_CONTEXT_BYTES if has_accelerator else 0
    return size_bytes + KV_BYTES + compute + PROCESS_BYTES + device


def fits(size_bytes: int | None, box: Box | None, *, may_split: bool) -> Fits:
    """The table of the module. `may_split`: layers may stay in main memory (GGUF)."""
    if size_bytes is None or box is None or box.budget_bytes <= 0 or not box.devices:
        return Fits.UNKNOWN
    room = box.room_bytes + (box.spare_host_bytes if may_split else 0)
    if estimate_bytes(size_bytes, has_accelerator=box.has_accelerator) <= room:
        return Fits.YES
    return Fits.NO if size_bytes + PROCESS_BYTES > room else Fits.UNKNOWN
