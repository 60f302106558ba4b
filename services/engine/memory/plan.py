"""Decide how a model that needs room gets it: pure, no clock, no effect.

    plan(residents, need, pools) -> Decision

Room in a pool is what the budget leaves and what the machine really has free, whichever is less:

    min(limit - sum of what residents were promised, free - sum of what they have not taken yet)

1. It fits                                     -> LOAD
2. It fits once idle residents are gone        -> EVICT those, the cheapest loss first
3. It fits once busy residents are done        -> WAIT for those
4. It does not fit whatever leaves             -> IMPOSSIBLE, nothing is evicted

Pinned residents never leave; settling ones (just loaded, just used) do not leave yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

_GIB = 1 << 30
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class PoolRoom:
    """One pool as the plan sees it."""

    name: str
    limit_bytes: int  # what models may take of it in all
    free_bytes: int  # measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """A model that holds memory, or was promised it."""

    key: str
    name: str
    promised: Mapping[str, int]  # bytes by pool
    # Of the promised bytes, what the probe does not see as used: a load under way has not taken all
    # of them yet, and mapped weights count as page cache.
    untaken: Mapping[str, int]
    is_busy: bool = False
    is_pinned: bool = False
    is_settling: bool = False
    is_moving: bool = False  # loading or stopping: what it has taken changes as we look
    idle_seconds: float = 0.0
    reload_seconds: float = 1.0
    priority: int = 0

    def returns(self, pool: str) -> int:
        """Bytes that are free once it left and are not now. At most: for a moving one, a guess."""
        promised = self.promised.get(pool, 0)
        return promised if self.is_moving else promised - self.untaken.get(pool, 0)

    @property
    def loss(self) -> float:
        """How much it costs to let it go: dear to bring back, wanted, and lately used."""
        value = float(2 ** max(min(self.priority, 30), -30))
        return self.reload_seconds * value / (1.0 + self.idle_seconds)


class Action(Enum):
    """What to do about a model that is not loaded."""

    LOAD = "load"
    EVICT = "evict"
    WAIT = "wait"
    IMPOSSIBLE = "impossible"


@dataclass(frozen=True, slots=True)
class Decision:
    """`leaving`: keys to evict (EVICT) or to wait for (WAIT). `why` shows the arithmetic."""

    action: Action
    leaving: tuple[str, ...]
    why: str


def plan(
    residents: Sequence[Resident], need: Mapping[str, int], pools: Sequence[PoolRoom]
) -> Decision:
    """What has to happen before a model that needs these bytes (by pool) may start."""
    if _fits(residents, need, pools):
        return Decision(Action.LOAD, (), _words("fits", residents, need, pools))
    idle = [r for r in residents if not (r.is_busy or r.is_pinned or r.is_settling)]
    if (victims := _cheapest(residents, idle, need, pools)) is not None:
        verb = f"fits once {_names(victims)} left"
        return Decision(Action.EVICT, _keys(victims), _words(verb, residents, need, pools))
    movable = [r for r in residents if not r.is_pinned]
    if (awaited := _cheapest(residents, movable, need, pools)) is not None:
        verb = f"waits for {_names(awaited)}, in use now"
        return Decision(Action.WAIT, _keys(awaited), _words(verb, residents, need, pools))
    return Decision(Action.IMPOSSIBLE, (), _impossible(residents, need, pools))


def room(residents: Sequence[Resident], pools: Sequence[PoolRoom]) -> dict[str, int]:
    """Bytes a newcomer may take of each pool; negative where too much was promised."""
    return {
        pool.name: min(
            pool.limit_bytes - sum(r.promised.get(pool.name, 0) for r in residents),
            pool.free_bytes - sum(r.untaken.get(pool.name, 0) for r in residents),
        )
        for pool in pools
    }


def room_at_best(residents: Sequence[Resident], pools: Sequence[PoolRoom]) -> dict[str, int]:
    """Bytes a newcomer could take if all that is not pinned had left."""
    return _room_without(residents, [r for r in residents if not r.is_pinned], pools)


def _room_without(
    residents: Sequence[Resident], leaving: Sequence[Resident], pools: Sequence[PoolRoom]
) -> dict[str, int]:
    """As `room`, after these left: what they had taken is free again."""
    gone = {r.key for r in leaving}
    after = [
        PoolRoom(
            pool.name,
            pool.limit_bytes,
            pool.free_bytes + sum(r.returns(pool.name) for r in leaving),
        )
        for pool in pools
    ]
    return room([r for r in residents if r.key not in gone], after)


def _fits(
    residents: Sequence[Resident],
    need: Mapping[str, int],
    pools: Sequence[PoolRoom],
    leaving: Sequence[Resident] = (),
) -> bool:
    free = _room_without(residents, leaving, pools)
    return all(free.get(name, 0) >= size for name, size in need.items() if size > 0)


def _cheapest(
    residents: Sequence[Resident],
    movable: Sequence[Resident],
    need: Mapping[str, int],
    pools: Sequence[PoolRoom],
) -> list[Resident] | None:
    """A small, cheap set whose leaving makes room; None where even all of them would not."""
    chosen: list[Resident] = []
    for resident in sorted(movable, key=lambda r: (r.is_busy, r.loss)):
        if _fits(residents, need, pools, chosen):
            break
        if any(resident.promised.get(name, 0) for name in need):
            chosen.append(resident)
    if not _fits(residents, need, pools, chosen):
        return None
    # The dearest first: a big one taken late may have made an early, small one unnecessary.
    for resident in sorted(chosen, key=lambda r: (r.is_busy, r.loss), reverse=True):
        rest = [r for r in chosen if r is not resident]
        if _fits(residents, need, pools, rest):
            chosen = rest
    return chosen


def _keys(residents: Sequence[Resident]) -> tuple[str, ...]:
    return tuple(r.key for r in residents)


def _names(residents: Sequence[Resident]) -> str:
    return " and ".join(r.name for r in residents)


def _words(
    verdict: str,
    residents: Sequence[Resident],
    need: Mapping[str, int],
    pools: Sequence[PoolRoom],
) -> str:
    free = room(residents, pools)
    wanted = [pool for pool in pools if need.get(pool.name)]
    short = [pool for pool in wanted if need[pool.name] > free[pool.name]]
    parts = []
    for pool in short or wanted:
        held = sum(r.promised.get(pool.name, 0) for r in residents)
        parts.append(
            f"{pool.name}: needs {size_words(need[pool.name])}, "
            f"room {size_words(max(free[pool.name], 0))} (limit {size_words(pool.limit_bytes)}, "
            f"models hold {size_words(held)}, free on the machine {size_words(pool.free_bytes)})"
        )
    return f"{verdict}; " + "; ".join(parts)


def _impossible(
    residents: Sequence[Resident], need: Mapping[str, int], pools: Sequence[PoolRoom]
) -> str:
    best = room_at_best(residents, pools)
    pinned = [r for r in residents if r.is_pinned]
    parts = []
    for pool in pools:
        size = need.get(pool.name, 0)
        if size <= best[pool.name]:
            continue
        held = sum(r.promised.get(pool.name, 0) for r in pinned)
        parts.append(
            f"{pool.name}: needs {size_words(size)}, but at most "
            f"{size_words(max(best[pool.name], 0))} can be made free (limit "
            f"{size_words(pool.limit_bytes)}, pinned models hold {size_words(held)}, "
            f"free on the machine {size_words(pool.free_bytes)})"
        )
    unknown = [name for name in need if name not in {pool.name for pool in pools}]
    parts.extend(f"{name}: there is no such device" for name in unknown)
    return "does not fit; " + "; ".join(parts)


def size_words(size_bytes: int) -> str:
    """For people: "4.6 GiB", "512 MiB"."""
    if size_bytes >= _GIB:
        return f"{size_bytes / _GIB:.1f} GiB"
    return f"{size_bytes / _MIB:.0f} MiB"
