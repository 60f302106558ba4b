"""Read the exact sizes of llama.cpp's buffers from its log; no function of its API returns them.

    load_tensors:      CUDA0 model buffer size =   373.71 MiB
    llama_kv_cache:    CUDA0 KV buffer size =     4.00 MiB
    llama_kv_cache: size =    4.00 MiB (  2048 cells, ...
    llama_memory_recurrent: size =    2.52 MiB (    17 cells, ...
    llama_context:  CUDA_Host output buffer size =     0.25 MiB
    sched_reserve:      CUDA0 compute buffer size =     5.26 MiB

llama.cpp numbers the devices that the process sees. A dry run logs no model buffers, and 0.00 for
the KV buffers. There, only the sums are exact, and the buffers are placed like the layers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from services.engine.core import HOST

_MIB = 1 << 20
_MEMORY = re.compile(r"^llama_(?:kv_cache|memory)\w*: size =\s*([\d.]+) MiB")
_BUFFER = re.compile(r"^\w+:\s+(\S+)\s+(model|KV|RS|compute|output) buffer size =\s*([\d.]+) MiB")
_DEVICE = re.compile(r"^[A-Za-z]+(\d+)$")  # not CUDA_Host, which is pinned host memory


@dataclass(slots=True)
class Sizes:
    """MiB by memory pool for each kind of buffer, and the exact sum for memory."""

    weights: dict[str, float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    compute: dict[str, float] = field(default_factory=dict)
    memory_sum: float = 0.0

    @property
    def kv_bytes(self) -> int:
        """Bytes of the KV cells and recurrent states."""
        return round(self.memory_sum * _MIB)

    @property
    def compute_bytes(self) -> int:
        """Bytes of scratch buffers and logits."""
        return round(sum(self.compute.values()) * _MIB)

    def pool_bytes(self, *, weights_bytes: int, layers: Mapping[str, int]) -> dict[str, int]:
        """All bytes by pool. Sizes that the log does not place are placed like the layers."""
        pools: Counter[str] = Counter()
        for total, placed in (
            (weights_bytes, self.weights),
            (self.kv_bytes, self.memory),
            (self.compute_bytes, self.compute),
        ):
            pools.update(_split(total, placed if sum(placed.values()) > 0 else layers))
        return {pool: size for pool, size in sorted(pools.items()) if size > 0}


def parse_sizes(lines: Iterable[str], devices: Sequence[str]) -> Sizes:
    """Parse what llama.cpp logged while it loaded one model and created one context.

    `devices`: the memory pools of the devices that llama.cpp sees, in its order.
    """
    sizes = Sizes()
    kinds = {"model": sizes.weights, "KV": sizes.memory, "RS": sizes.memory}
    for line in lines:
        if found := _MEMORY.search(line):
            sizes.memory_sum += float(found[1])
        elif found := _BUFFER.search(line):
            place = kinds.get(found[2], sizes.compute)
            pool = _find_pool(found[1], devices)
            place[pool] = place.get(pool, 0.0) + float(found[3])
    return sizes


def _find_pool(buffer: str, devices: Sequence[str]) -> str:
    device = _DEVICE.search(buffer)
    return devices[int(device[1])] if device and int(device[1]) < len(devices) else HOST


def _split(total: int, parts: Mapping[str, float]) -> dict[str, int]:
    """Split `total` in proportion; the first pool gets the rounding difference."""
    whole = sum(parts.values())
    split = {pool: int(total * part / whole) for pool, part in parts.items()}
    first = next(iter(split))
    split[first] += total - sum(split.values())
    return split
