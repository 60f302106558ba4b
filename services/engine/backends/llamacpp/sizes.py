"""Exact sizes of llama.cpp's buffers, read from its log: no function of its API tells them.

    load_tensors:      CUDA0 model buffer size =   373.71 MiB
    llama_kv_cache:    CUDA0 KV buffer size =     4.00 MiB
    llama_kv_cache: size =    4.00 MiB (  2048 cells, ...
    llama_memory_recurrent: size =    2.52 MiB (    17 cells, ...
    llama_context:  CUDA_Host output buffer size =     0.25 MiB
    sched_reserve:      CUDA0 compute buffer size =     5.26 MiB

A dry run writes no model lines and 0.00 for the KV buffers: there only their sums are exact, and
their places are those of the offloaded layers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

HOST = "host"

_MIB = 1 << 20
_MEMORY = re.compile(r"^llama_(?:kv_cache|memory)\w*: size =\s*([\d.]+) MiB")
_BUFFER = re.compile(r"^\w+:\s+(\S+)\s+(model|KV|RS|compute|output) buffer size =\s*([\d.]+) MiB")
_DEVICE = re.compile(r"^(?:CUDA|ROCm|Vulkan|SYCL)(\d+)$")  # not CUDA_Host, which is pinned memory


@dataclass(slots=True)
class Sizes:
    """MiB by pool ("host", "cuda0", ...) of each kind of buffer, and the memory's exact sum."""

    weights: dict[str, float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    compute: dict[str, float] = field(default_factory=dict)
    memory_sum: float = 0.0

    @property
    def kv_bytes(self) -> int:
        """Of the KV cells and recurrent states."""
        return round(self.memory_sum * _MIB)

    @property
    def compute_bytes(self) -> int:
        """Of scratch buffers and logits."""
        return round(sum(self.compute.values()) * _MIB)

    def pool_bytes(self, *, weights_bytes: int, offloaded: Sequence[float]) -> dict[str, int]:
        """All bytes by pool. `offloaded`: the part of the layers on each device, where unlogged."""
        planned = {HOST: 1.0 - sum(offloaded)}
        planned |= {f"cuda{place}": share for place, share in enumerate(offloaded)}
        pools: Counter[str] = Counter()
        for total, placed in (
            (weights_bytes, self.weights),
            (self.kv_bytes, self.memory),
            (self.compute_bytes, self.compute),
        ):
            pools.update(_split(total, placed if sum(placed.values()) > 0 else planned))
        return {pool: size for pool, size in sorted(pools.items()) if size > 0}


def parse_sizes(lines: Iterable[str]) -> Sizes:
    """What llama.cpp logged while it loaded one model and made one context."""
    sizes = Sizes()
    kinds = {"model": sizes.weights, "KV": sizes.memory, "RS": sizes.memory}
    for line in lines:
        if found := _MEMORY.search(line):
            sizes.memory_sum += float(found[1])
        elif found := _BUFFER.search(line):
            place = kinds.get(found[2], sizes.compute)
            place[_pool(found[1])] = place.get(_pool(found[1]), 0.0) + float(found[3])
    return sizes


def _pool(buffer: str) -> str:
    device = _DEVICE.search(buffer)
    return f"cuda{device[1]}" if device else HOST


def _split(total: int, parts: Mapping[str, float]) -> dict[str, int]:
    """`total` in proportion; the rounding goes to the first."""
    whole = sum(parts.values())
    split = {pool: int(total * part / whole) for pool, part in parts.items()}
    first = next(iter(split))
    split[first] += total - sum(split.values())
    return split
