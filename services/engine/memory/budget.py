"""How much memory models may take: `SPINDLL_MEMORY_BUDGET`, turned into a limit per pool.

A pool is one place memory comes from: `host`, or one accelerator (`cuda0`, ...). The budget is about
the memory models live in: the accelerators where there are any, else the host. Whatever the budget,
a pool keeps back what the rest of the machine needs (`kept_back_bytes`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.engine.memory.probe import HOST, Pool
from services.shared.errors import InvalidSettings

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Budget:
    """At most one of the two is set; neither is `auto`."""

    size_bytes: int | None = None
    fraction: float | None = None  # of each pool's total, 0 to 1


def parse_budget(text: str) -> Budget:
    """`auto`, `80%`, or a size such as `8G`, `8GiB`, `512M` (powers of 1024)."""
    text = text.strip()
    if text.lower() == "auto":
        return Budget()
    if (match := _PERCENT.fullmatch(text)) and 0 < float(match[1]) <= 100:
        return Budget(fraction=float(match[1]) / 100)
    if (match := _SIZE.fullmatch(text)) and (size := _size_bytes(match)) >= _MIB:
        return Budget(size_bytes=size)
    raise InvalidSettings(
        f"{text!r} is not a memory budget: write 'auto', a share such as '80%', "
        "or a size of at least 1M such as '8G'"
    )


def limits(budget: Budget, pools: Sequence[Pool]) -> dict[str, int]:
    """The most that models may take of each pool, in bytes."""
    primary = {pool.name for pool in primary_pools(pools)}
    whole = sum(pool.total_bytes for pool in pools if pool.name in primary)
    found = {}
    for pool in pools:
        limit = max(pool.total_bytes - kept_back_bytes(pool), 0)
        if pool.name in primary and budget.fraction is not None:
            limit = min(int(pool.total_bytes * budget.fraction), pool.total_bytes)
        elif pool.name in primary and budget.size_bytes is not None and whole:
            share = budget.size_bytes * pool.total_bytes // whole
            limit = min(share, pool.total_bytes)
        found[pool.name] = limit
    return found


def primary_pools(pools: Sequence[Pool]) -> list[Pool]:
    """Where models live: the accelerators, or the host where there is none."""
    return [p for p in pools if p.name != HOST] or list(pools)


def primary_bytes(pools: Sequence[Pool], amounts: Mapping[str, int]) -> int:
    """The part of `amounts` that the budget is about."""
    return sum(amounts.get(pool.name, 0) for pool in primary_pools(pools))


def kept_back_bytes(pool: Pool) -> int:
    """What `auto` leaves to others: the system and our other services, or a desktop on the GPU."""
    if pool.name == HOST:
        return min(max(pool.total_bytes // 10, 256 * _MIB), 4096 * _MIB)
    return min(max(pool.total_bytes // 20, 128 * _MIB), 1024 * _MIB)


def _size_bytes(match: re.Match[str]) -> int:
    return int(float(match[1]) * _UNITS[match[2].upper()])
