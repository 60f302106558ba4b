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
from dataclasses import dataclass

from services.engine.front.models.loaded_model import Model, State
from services.engine.front.models.request import WaitReason
from services.engine.front.models.residency import TurnRules, is_settling
from services.engine.memory.budget import Budget, limits, primary_bytes
from services.engine.memory.estimate import Footprint, fitting_context
from services.engine.memory.plan import (
    Action,
    Decision,
    PoolRoom,
    Resident,
    plan,
    room_at_best,
)
from services.engine.memory.probe import HOST, Pool, Probe
from services.shared.errors import InsufficientMemory


@dataclass(frozen=True, slots=True)
class MemoryTotals:
    """The memory of the machine, and what models may take and have been promised of it."""

    pools: tuple[Pool, ...]
    budget_bytes: int
    promised_bytes: int


@dataclass(frozen=True, slots=True)
class LoadPreview:
    """What loading a model would do now. `decision` None: it is loaded already."""

    decision: Decision | None
    footprint: Footprint
    evict: tuple[str, ...]  # names
    fitting_context_length: int
    free_bytes: int
    budget_bytes: int


logger = logging.getLogger(__name__)


class Admission:
    """Owns the line of models that wait for memory. Event loop only."""

    def __init__(
        self,
        probe: Probe,
        budget: Budget,
        rules: TurnRules,
        *,
        list_models: Callable[[], Iterable[Model]],
        evict: Callable[[Model], None],
        clock: Callable[[], float],
    ) -> None:
        self._probe = probe
        self._budget = budget
        self._rules = rules
        self._list_models = list_models
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
        model.move_to(State.WAITING)
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
        pools = self._pool_rooms()
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

    def preview(self, key: str, footprint: Footprint) -> LoadPreview:
        """What loading the model of this key with this footprint would do now. Changes nothing."""
        models = {model.key: model for model in self._list_models()}
        totals = self.totals()
        decision = None
        if key not in models or models[key].state is not State.READY:
            decision = plan(self._residents(key), footprint.need, self._pool_rooms())
        return LoadPreview(
            decision=decision,
            footprint=footprint,
            evict=tuple(models[k].name for k in decision.leaving) if decision else (),
            fitting_context_length=fitting_context(footprint, self.room_at_best(besides=key)),
            free_bytes=min(
                totals.budget_bytes - totals.promised_bytes,
                sum(pool.free_bytes for pool in totals.pools),
            ),
            budget_bytes=totals.budget_bytes,
        )

    def room_at_best(self, *, besides: str = "") -> dict[str, int]:
        """Bytes by pool that could be had at most: all but the pinned ones gone."""
        return room_at_best(self._residents(besides), self._pool_rooms())

    def _pool_rooms(self) -> list[PoolRoom]:
        """Every pool, with its limit and what is free now."""
        pools = self._probe.pools()
        most = limits(self._budget, pools)
        return [PoolRoom(pool.name, most[pool.name], pool.free_bytes) for pool in pools]

    def totals(self) -> MemoryTotals:
        """The memory as it is now."""
        pools = self._probe.pools()
        promised: dict[str, int] = {}
        for resident in self._residents():
            for name, size in resident.promised.items():
                promised[name] = promised.get(name, 0) + size
        budget = primary_bytes(pools, limits(self._budget, pools))
        return MemoryTotals(pools, budget, primary_bytes(pools, promised))

    def _decide(self, model: Model, pools: Sequence[PoolRoom]) -> Decision:
        assert model.footprint is not None
        return plan(self._residents(model.key), model.footprint.need, pools)

    def _residents(self, besides: str = "") -> list[Resident]:
        now = self._clock()
        return [
            _resident(model, self._rules, now)
            for model in self._list_models()
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
        model.move_to(State.LOADING)
        granted.set_result(None)
        model.announce(0, WaitReason.LOADING)

    def _make_room(self, model: Model, decision: Decision) -> None:
        """Case 1 of the module, for one that cannot be loaded at once."""
        if decision.action is not Action.EVICT:
            return
        logger.info("making room", extra={"model": model.name, "decision": decision.why})
        leaving = set(decision.leaving)
        for other in list(self._list_models()):
            if other.key in leaving:
                self._evict(other)

    def _ask_to_yield(self, keys: Iterable[str]) -> None:
        awaited = set(keys)
        for model in self._list_models():
            model.must_yield = model.key in awaited


def _resident(model: Model, rules: TurnRules, now: float) -> Resident:
    """The model as a fact of this moment."""
    need = model.footprint.need if model.footprint is not None and model.has_memory else {}
    return Resident(
        key=model.key,
        name=model.name,
        promised=need,
        untaken=_untaken(model, need),
        is_busy=model.is_busy or bool(model.waiting and model.accepts(rules, now)),
        is_pinned=model.is_pinned,
        is_settling=is_settling(model.residency, rules, now),
        is_moving=model.state is not State.READY,
        idle_seconds=max(now - model.residency.last_used, 0.0),
        reload_seconds=max(model.residency.load_seconds, 0.1),
        priority=model.settings.priority or 0,
    )


def _untaken(model: Model, need: Mapping[str, int]) -> Mapping[str, int]:
    """While it loads, all of it: it may have taken any part."""
    if model.state is not State.READY or model.footprint is None:
        return need
    # Weights in main memory are mapped files: the machine counts them as free.
    share = model.footprint.pool_bytes.get(HOST, 0)
    return {HOST: min(model.footprint.weights_bytes, share, need.get(HOST, 0))}
