"""Decide how a model that is to be loaded gets its memory: pure, without clock or effect.

    plan(residents, need, pools) -> Decision

The available bytes of a pool are the smaller of what the budget leaves and what the machine has:

    min(limit - sum of committed bytes, free - sum of committed bytes that are not in use yet)

1. The model fits                                      -> LOAD
2. It fits after idle residents leave                  -> EVICT them, cheapest first
3. It fits after busy residents finish and leave       -> WAIT for them
4. The limits would allow it, but other programs use
   the memory                                          -> WAIT for them, nothing is evicted
5. It would not fit even if every other model left     -> IMPOSSIBLE, nothing is evicted

A pinned resident never leaves. A resident in its grace time (loaded and used a moment ago) is not
evicted yet.

MLX_RUNNERS is a pool too where MLX models are loaded one at a time: it holds one process, of which
each of them needs one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

MLX_RUNNERS = "mlx runners"
_MLX_RULE = "one MLX model is loaded at a time on a Mac"
_GIB = 1 << 30
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class PoolCapacity:
    """One memory pool: its limit and its free bytes. Of MLX_RUNNERS, processes instead of bytes."""

    name: str
    limit_bytes: int  # the bytes that all models together may take of it
    free_bytes: int  # measured on the machine


ONE_MLX_RUNNER = PoolCapacity(MLX_RUNNERS, limit_bytes=1, free_bytes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """A model that memory is committed to."""

    key: str
    name: str
    committed: Mapping[str, int]  # bytes by pool
    # The committed bytes that the machine still counts as free, by pool: a model that is loading
    # has not taken all of them yet.
    unused: Mapping[str, int]
    is_busy: bool = False
    is_pinned: bool = False
    is_in_grace: bool = False
    is_transitioning: bool = False  # loading or stopping: its use changes between measurements
    idle_seconds: float = 0.0
    reload_seconds: float = 1.0
    priority: int = 0

    def count_freed_bytes(self, pool: str) -> int:
        """The bytes of the pool that become free when it leaves; an upper bound in a transition."""
        committed = self.committed.get(pool, 0)
        return committed if self.is_transitioning else committed - self.unused.get(pool, 0)

    @property
    def eviction_cost(self) -> float:
        """What its eviction costs: more if it is slow to reload, has priority, or was just used."""
        value = float(2 ** max(min(self.priority, 30), -30))
        return self.reload_seconds * value / (1.0 + self.idle_seconds)


class Action(Enum):
    """What happens with a model that is to be loaded."""

    LOAD = "load"
    EVICT = "evict"
    WAIT = "wait"
    IMPOSSIBLE = "impossible"


@dataclass(frozen=True, slots=True)
class Decision:
    """What happens, and why."""

    action: Action
    leaving: tuple[
        str, ...
    ]  # keys of the residents to evict (EVICT) or to wait for (WAIT; none: other programs)
    explanation: str  # for people, with the arithmetic


def plan(
    residents: Sequence[Resident], need: Mapping[str, int], pools: Sequence[PoolCapacity]
) -> Decision:
    """What has to happen before a model that needs these bytes (by pool) may start."""
    if _fits(residents, need, pools):
        return Decision(Action.LOAD, (), _explain("fits", residents, need, pools))
    idle = [r for r in residents if not (r.is_busy or r.is_pinned or r.is_in_grace)]
    if (victims := _choose_cheapest(residents, idle, need, pools)) is not None:
        outcome = f"fits after {_join_names(victims)} is evicted"
        return Decision(Action.EVICT, _keys(victims), _explain(outcome, residents, need, pools))
    movable = [r for r in residents if not r.is_pinned]
    if (awaited := _choose_cheapest(residents, movable, need, pools)) is not None:
        outcome = f"waits for {_join_names(awaited)}, in use now"
        return Decision(Action.WAIT, _keys(awaited), _explain(outcome, residents, need, pools))
    if _is_within_limits(residents, need, pools):
        outcome = "waits for memory that other programs use"
        return Decision(Action.WAIT, (), _explain(outcome, residents, need, pools))
    return Decision(Action.IMPOSSIBLE, (), _explain_impossible(residents, need, pools))


def compute_available_bytes(
    residents: Sequence[Resident], pools: Sequence[PoolCapacity]
) -> dict[str, int]:
    """The bytes that another model may take of each pool; negative where too much is committed."""
    return {
        pool.name: min(
            pool.limit_bytes - sum(r.committed.get(pool.name, 0) for r in residents),
            pool.free_bytes - sum(r.unused.get(pool.name, 0) for r in residents),
        )
        for pool in pools
    }


def compute_max_available_bytes(
    residents: Sequence[Resident], pools: Sequence[PoolCapacity]
) -> dict[str, int]:
    """The bytes that another model could take if every resident but the pinned ones had left.

    An upper bound while a pinned one is loading: how much it has taken of its bytes is not known.
    """
    settled = [replace(r, unused={}) if r.is_transitioning else r for r in residents]
    return _compute_available_without(settled, [r for r in settled if not r.is_pinned], pools)


def _compute_available_without(
    residents: Sequence[Resident], leaving: Sequence[Resident], pools: Sequence[PoolCapacity]
) -> dict[str, int]:
    """As `compute_available_bytes`, after these residents have left."""
    gone = {r.key for r in leaving}
    after = [
        PoolCapacity(
            pool.name,
            pool.limit_bytes,
            pool.free_bytes + sum(r.count_freed_bytes(pool.name) for r in leaving),
        )
        for pool in pools
    ]
    return compute_available_bytes([r for r in residents if r.key not in gone], after)


def _fits(
    residents: Sequence[Resident],
    need: Mapping[str, int],
    pools: Sequence[PoolCapacity],
    leaving: Sequence[Resident] = (),
) -> bool:
    available = _compute_available_without(residents, leaving, pools)
    return all(available.get(name, 0) >= size for name, size in need.items() if size > 0)


def _is_within_limits(
    residents: Sequence[Resident], need: Mapping[str, int], pools: Sequence[PoolCapacity]
) -> bool:
    """Whether it would fit if every resident but the pinned ones had left, and all else were free.

    What is free on the machine changes with other programs; the limits do not.
    """
    allowed = {
        pool.name: pool.limit_bytes
        - sum(r.committed.get(pool.name, 0) for r in residents if r.is_pinned)
        for pool in pools
    }
    return all(allowed.get(name, 0) >= size for name, size in need.items() if size > 0)


def _choose_cheapest(
    residents: Sequence[Resident],
    movable: Sequence[Resident],
    need: Mapping[str, int],
    pools: Sequence[PoolCapacity],
) -> list[Resident] | None:
    """A small, cheap set of residents to leave; None when even all of `movable` do not suffice."""
    chosen: list[Resident] = []
    for resident in sorted(movable, key=lambda r: (r.is_busy, r.eviction_cost)):
        if _fits(residents, need, pools, chosen):
            break
        if any(resident.committed.get(name, 0) for name in need):
            chosen.append(resident)
    if not _fits(residents, need, pools, chosen):
        return None
    # The most expensive first: a large one chosen late may make an early, small one unnecessary.
    for resident in sorted(chosen, key=lambda r: (r.is_busy, r.eviction_cost), reverse=True):
        rest = [r for r in chosen if r is not resident]
        if _fits(residents, need, pools, rest):
            chosen = rest
    return chosen


def _keys(residents: Sequence[Resident]) -> tuple[str, ...]:
    return tuple(r.key for r in residents)


def _join_names(residents: Sequence[Resident]) -> str:
    return " and ".join(r.name for r in residents)


def _explain(
    outcome: str,
    residents: Sequence[Resident],
    need: Mapping[str, int],
    pools: Sequence[PoolCapacity],
) -> str:
    available = compute_available_bytes(residents, pools)
    needed = [pool for pool in pools if need.get(pool.name)]
    short = [pool for pool in needed if need[pool.name] > available[pool.name]]
    parts = []
    for pool in short or needed:
        if pool is ONE_MLX_RUNNER:
            parts += [_MLX_RULE] if short else []
            continue
        held = sum(r.committed.get(pool.name, 0) for r in residents)
        parts.append(
            f"{pool.name}: needs {format_size(need[pool.name])}, "
            f"available {format_size(max(available[pool.name], 0))} "
            f"(limit {format_size(pool.limit_bytes)}, models hold {format_size(held)}, "
            f"free on the machine {format_size(pool.free_bytes)})"
        )
    return f"{outcome}; " + "; ".join(parts)


def _explain_impossible(
    residents: Sequence[Resident], need: Mapping[str, int], pools: Sequence[PoolCapacity]
) -> str:
    available = compute_max_available_bytes(residents, pools)
    pinned = [r for r in residents if r.is_pinned]
    parts = []
    for pool in pools:
        size = need.get(pool.name, 0)
        if size <= available[pool.name]:
            continue
        if pool is ONE_MLX_RUNNER:
            holding = [r for r in pinned if r.committed.get(MLX_RUNNERS)]
            parts.append(f"{_MLX_RULE}, and {_join_names(holding)} is pinned")
            continue
        held = sum(r.committed.get(pool.name, 0) for r in pinned)
        parts.append(
            f"{pool.name}: needs {format_size(size)}, but at most "
            f"{format_size(max(available[pool.name], 0))} can be made free (limit "
            f"{format_size(pool.limit_bytes)}, pinned models hold {format_size(held)}, "
            f"free on the machine {format_size(pool.free_bytes)})"
        )
    unknown = [name for name in need if name not in {pool.name for pool in pools}]
    parts.extend(f"{name}: there is no such device" for name in unknown)
    return "does not fit; " + "; ".join(parts)


def format_size(size_bytes: int) -> str:
    """A size for people: "4.6 GiB", "512 MiB"."""
    if size_bytes >= _GIB:
        return f"{size_bytes / _GIB:.1f} GiB"
    return f"{size_bytes / _MIB:.0f} MiB"
