"""Estimates whether a model that is not stored here would fit this machine, from its file size.

The engine's own plan needs the model file; before a download only its size is known. The estimate
is cautious, and uses the numbers of the engine's own (services/shared/memory_assumptions.py):

    need = files + KV of 4096 tokens at 128 KiB each        as an 8B model with f16 keys and values
                 + compute, a tenth of the files, >= 128 MiB
                 + 192 MiB for the process, and 640 MiB for the driver's context on accelerators

It is compared with the room there would be with no other model loaded, since idle models are
unloaded when another needs their memory:

    room = min(budget, free + what models use now)          of the accelerators, else of the host

| fit | when |
|-|-|
| yes | need <= room; for GGUF, the spare main memory beside accelerators counts as room |
| no | the files and the process alone exceed the room |
| unknown | in between, where the engine would shrink the context; or a number is missing |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from services.shared.memory_assumptions import (
    DEVICE_CONTEXT_BYTES,
    KV_BYTES_PER_CELL,
    PROCESS_BYTES,
    guess_compute_bytes,
)

_KV_BYTES = 4096 * KV_BYTES_PER_CELL
_HOST = "host"


class Fit(Enum):
    """Whether a model would run on this machine."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class MemoryDevice:
    """A memory device as the engine reports it; `kind` is host, cuda or metal."""

    kind: str
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineMemory:
    """The memory the engine manages.

    `budget_bytes` and `used_bytes` refer to the accelerators, or to the host without any.
    """

    devices: Sequence[MemoryDevice]
    budget_bytes: int
    used_bytes: int

    @property
    def has_accelerator(self) -> bool:
        """Whether models have their own memory beside the main memory."""
        return any(device.kind != _HOST for device in self.devices)

    @property
    def room_bytes(self) -> int:
        """What models could use with none loaded: accelerator memory, else main memory."""
        primary = [d for d in self.devices if (d.kind != _HOST) == self.has_accelerator]
        free = sum(device.free_bytes for device in primary)
        return min(self.budget_bytes, free + self.used_bytes)

    @property
    def spare_host_bytes(self) -> int:
        """Main memory for layers that no accelerator holds; a tenth of it is kept free."""
        if not self.has_accelerator:
            return 0
        host = [device for device in self.devices if device.kind == _HOST]
        return sum(max(device.free_bytes - device.total_bytes // 10, 0) for device in host)


def estimate_memory_bytes(size_bytes: int, *, has_accelerator: bool) -> int:
    """The memory that a model with files of this size will probably take, in bytes."""
    device = DEVICE_CONTEXT_BYTES if has_accelerator else 0
    return size_bytes + _KV_BYTES + guess_compute_bytes(size_bytes) + PROCESS_BYTES + device


def estimate_fit(size_bytes: int | None, memory: MachineMemory | None, *, may_split: bool) -> Fit:
    """Whether a model fits, by the table above. `may_split`: layers may stay in main memory."""
    if size_bytes is None or memory is None or memory.budget_bytes <= 0 or not memory.devices:
        return Fit.UNKNOWN
    room = memory.room_bytes + (memory.spare_host_bytes if may_split else 0)
    if estimate_memory_bytes(size_bytes, has_accelerator=memory.has_accelerator) <= room:
        return Fit.YES
    return Fit.NO if size_bytes + PROCESS_BYTES > room else Fit.UNKNOWN
