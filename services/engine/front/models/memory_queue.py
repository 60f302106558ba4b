"""Which model may take memory next: first come, first served, and who has to leave for it.

    enter(model)   returns when the model may be loaded; its bytes are promised to it from then on
    turn()         looks again; called whenever something changed, and a few times a second

1. The first in line is planned for: loaded, or idle models are evicted, or busy ones asked to
   yield (turns.py).
2. One behind it may go ahead only where it fits at once, and would still fit beside the first.
3. What cannot fit whatever leaves is refused, and nothing is evicted for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

from services.engine.front.models.loaded_model import Model, State
from services.engine.front.models.request import WaitReason
from services.engine.front.models.residency import TurnRules
from services.engine.front.models.residents import resident_of
from services.engine.memory.budget import Budget, limits, primary_bytes
from services.engine.memory.plan import (
    Action,
    Decision,
    PoolRoom,
    Resident,
    plan,
    room_at_best,
)
from services.engine.memory.probe import Pool, Probe
from services.shared.errors import InsufficientMemory

logger = logging.getLogger(__name__)


class Admission:
    """Owns the line of models that wait for memory. Event loop only."""

    def __init__(
        self,
        probe: Probe,
        budget: Budget,
        rules: TurnRules,
        *,
        models: Callable[[], Iterable[Model]],
        evict: Callable[[Model], None],
        clock: Callable[[], float],
    ) -> None:
        self._probe = probe
        self._budget = budget
        self._rules = rules
        self._models = models
        self._evict = evict
        self._clock = clock
        self._line: dict[Model, asyncio.Future[None]] = {}

    @property
    def has_waiting(self) -> bool:
        """Whether any model waits for memory."""
        return bool(self._line)

    async def enter(self, model: Model) -> None:
        """Wait for a turn. InsufficientMemory when there will never be one."""
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        model.state = State.WAITING
        self._line[model] = granted
        try:
            self.turn()
            await granted
        except BaseException:
            model.has_memory = False
            raise
        finally:
            self._line.pop(model, None)

    def turn(self) -> None:
        """Grant, evict, ask to yield, refuse: whatever can be done now."""
        if not self._line:
            self._ask_to_yield(())
            return
        pools = self.pool_rooms()
        first: Model | None = None
        awaited: tuple[str, ...] = ()
        for model, granted in list(self._line.items()):
            if granted.done():
                continue
            decision = self._decide(model, pools)
            if decision.action is Action.IMPOSSIBLE:
                granted.set_exception(InsufficientMemory(f"{model.name} {decision.why}"))
            elif decision.action is Action.LOAD and self._may_pass(model, first, pools):
                self._grant(model, granted)
            elif first is None:
                first, awaited = model, decision.leaving
                self._make_room(model, decision)
        self._ask_to_yield(awaited)
        self.announce()

    def announce(self) -> None:
        """Tell every waiting request its place; those told already hear nothing."""
        before = 0
        for model in self._line:
            if model.state is State.WAITING:
                before = model.announce(before, WaitReason.MEMORY)

    def decide(self, need: Mapping[str, int], *, besides: str = "") -> Decision:
        """What loading something of this need would mean now; `besides` is left out."""
        return plan(self._residents(besides), need, self.pool_rooms())

    def room_at_best(self, *, besides: str = "") -> dict[str, int]:
        """Bytes by pool that could be had at most: all but the pinned ones gone."""
        return room_at_best(self._residents(besides), self.pool_rooms())

    def pool_rooms(self) -> list[PoolRoom]:
        """Every pool, with its limit and what is free now."""
        pools = self._probe.pools()
        most = limits(self._budget, pools)
        return [PoolRoom(pool.name, most[pool.name], pool.free_bytes) for pool in pools]

    def totals(self) -> tuple[tuple[Pool, ...], int, int]:
        """The pools, the budget, and what of it is promised; the last two in bytes."""
        pools = self._probe.pools()
        promised: dict[str, int] = {}
        for resident in self._residents():
            for name, size in resident.promised.items():
                promised[name] = promised.get(name, 0) + size
        budget = primary_bytes(pools, limits(self._budget, pools))
        return pools, budget, primary_bytes(pools, promised)

    def _decide(self, model: Model, pools: Sequence[PoolRoom]) -> Decision:
        assert model.footprint is not None
        return plan(self._residents(model.key), model.footprint.need, pools)

    def _residents(self, besides: str = "") -> list[Resident]:
        now = self._clock()
        return [
            resident_of(model, self._rules, now)
            for model in self._models()
            if model.has_memory and model.key != besides
        ]

    def _may_pass(self, model: Model, first: Model | None, pools: Sequence[PoolRoom]) -> bool:
        """Case 2 of the module."""
        if first is None:
            return True
        assert model.footprint is not None
        assert first.footprint is not None
        best = room_at_best(self._residents(), pools)
        both = [model.footprint.need, first.footprint.need]
        return all(sum(need.get(name, 0) for need in both) <= best[name] for name in best)

    def _grant(self, model: Model, granted: asyncio.Future[None]) -> None:
        # Promised here and not by the waiter: the next in line is planned before it wakes up.
        model.has_memory = True
        model.state = State.LOADING
        granted.set_result(None)
        model.announce(0, WaitReason.LOADING)

    def _make_room(self, model: Model, decision: Decision) -> None:
        """Case 1 of the module, for one that cannot be loaded at once."""
        if decision.action is not Action.EVICT:
            return
        logger.info("making room", extra={"model": model.name, "decision": decision.why})
        leaving = set(decision.leaving)
        for other in list(self._models()):
            if other.key in leaving:
                self._evict(other)

    def _ask_to_yield(self, keys: Iterable[str]) -> None:
        awaited = set(keys)
        for model in self._models():
            model.must_yield = model.key in awaited
