"""How much memory models may take: turns `SPINDLL_MEMORY_BUDGET` into a limit for each pool.

A memory pool is main memory (`host`) or the memory of one accelerator (`cuda0`, ...). The budget
applies to the primary pools: the accelerators where there are any, else main memory. Pools that the
budget does not set, and every pool under `auto`, leave `compute_system_reserve` to the rest of the
machine. The sizes of the prompt cache are written in the same way, and are parsed here too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.engine.core import HOST
from services.engine.memory.probe import MemoryPool
from services.shared.errors import InvalidSettings

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")
_MIB = 1 << 20
_AUTO_CACHE_BYTES = 64 << 30


@dataclass(frozen=True, slots=True)
class Budget:
    """The value of the setting. At most one field is set; none means `auto`."""

    size_bytes: int | None = None
    fraction: float | None = None  # of each pool's total, 0 to 1


def parse_budget(text: str) -> Budget:
    """Parse `auto`, `80%`, or a size such as `8G`, `8GiB`, `512M` (powers of 1024).

    Raises InvalidSettings for anything else.
    """
    return _parse(text, "a memory budget: write 'auto'")


def parse_cache_size(text: str) -> Budget:
    """Parse a size of the prompt cache: as a budget, or `off` or `0` for nothing.

    Raises InvalidSettings for anything else.
    """
    if text.strip().lower() in ("off", "0"):
        return Budget(size_bytes=0)
    return _parse(text, "a size: write 'off', 'auto'")


def compute_cache_bytes(size: Budget, total_bytes: int) -> int:
    """The bytes of a tier on a medium of this size; `auto` is a tenth, at most 64 GiB."""
    if size.size_bytes is not None:
        return size.size_bytes
    if size.fraction is not None:
        return int(total_bytes * size.fraction)
    return min(total_bytes // 10, _AUTO_CACHE_BYTES)


def compute_pool_limits(budget: Budget, pools: Sequence[MemoryPool]) -> dict[str, int]:
    """The bytes that models may take of each pool, by the pool's name.

    A budget given as a size is divided among the primary pools in proportion to their totals.
    """
    primary = {pool.name for pool in select_primary_pools(pools)}
    primary_total = sum(pool.total_bytes for pool in pools if pool.name in primary)
    limits = {}
    for pool in pools:
        limit = max(pool.total_bytes - compute_system_reserve(pool), 0)
        if pool.name in primary and budget.fraction is not None:
            limit = min(int(pool.total_bytes * budget.fraction), pool.total_bytes)
        elif pool.name in primary and budget.size_bytes is not None and primary_total:
            share = budget.size_bytes * pool.total_bytes // primary_total
            limit = min(share, pool.total_bytes)
        limits[pool.name] = limit
    return limits


def select_primary_pools(pools: Sequence[MemoryPool]) -> list[MemoryPool]:
    """The pools that the budget applies to: the accelerators, or the host where there are none."""
    return [p for p in pools if p.name != HOST] or list(pools)


def sum_primary_bytes(pools: Sequence[MemoryPool], bytes_by_pool: Mapping[str, int]) -> int:
    """The sum of `bytes_by_pool` over the primary pools."""
    return sum(bytes_by_pool.get(pool.name, 0) for pool in select_primary_pools(pools))


def compute_system_reserve(pool: MemoryPool) -> int:
    """What `auto` leaves to the system, to our other services, or to a desktop on the GPU."""
    if pool.name == HOST:
        return min(max(pool.total_bytes // 10, 256 * _MIB), 4096 * _MIB)
    return min(max(pool.total_bytes // 20, 128 * _MIB), 1024 * _MIB)


def _parse(text: str, what: str) -> Budget:
    """`what` continues the message about a wrong text."""
    text = text.strip()
    if text.lower() == "auto":
        return Budget()
    if (match := _PERCENT.fullmatch(text)) and 0 < float(match[1]) <= 100:
        return Budget(fraction=float(match[1]) / 100)
    if (match := _SIZE.fullmatch(text)) and (size := _parse_size(match)) >= _MIB:
        return Budget(size_bytes=size)
    raise InvalidSettings(
        f"{text!r} is not {what}, a share such as '80%', or a size of at least 1M such as '8G'"
    )


def _parse_size(match: re.Match[str]) -> int:
    """The bytes; 0 for a number that is too large for any machine."""
    size = float(match[1]) * _UNITS[match[2].upper()]
    return int(size) if math.isfinite(size) else 0
