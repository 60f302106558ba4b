"""The queue of models that wait for memory: which one is loaded next, and what is evicted for it.

    wait_for_memory(model)   returns when the model may be loaded; its bytes are committed then
    schedule()               checks the queue again, after every change and a few times a second

1. The first model in the queue is planned for: it is granted, or idle models are evicted for it, or
   busy ones must yield (residency.py).
2. A later model may overtake the first one only if it fits at once and would still fit beside the
   first one.
3. A model that would not fit even if every other model left is refused, and nothing is evicted for
   it. If other programs use the memory, it waits for them for a limited time and then fails with
   an error that can be retried; meanwhile it holds back no other model.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from services.engine.core import LoadConfig
from services.engine.front.models.client_request import QueueReason
from services.engine.front.models.loaded_model import LoadedModel
from services.engine.front.models.model_state import ModelState
from services.engine.front.models.planning.device_choice import Room
from services.engine.front.models.planning.load_estimator import PlannedLoad
from services.engine.front.models.residency import ResidencyRules, is_in_grace
from services.engine.memory.budget import Budget, compute_pool_limits, sum_primary_bytes
from services.engine.memory.estimate import Footprint, find_fitting_context
from services.engine.memory.plan import (
    MLX_RUNNERS,
    ONE_MLX_RUNNER,
    Action,
    Decision,
    PoolCapacity,
    Resident,
    compute_available_bytes,
    compute_max_available_bytes,
    plan,
)
from services.engine.memory.probe import MemoryPool, MemoryProbe
from services.shared.errors import InsufficientMemory, Unavailable

logger = logging.getLogger(__name__)

_OTHER_PROGRAMS_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class MemoryTotals:
    """The memory of the machine, what models may take of it, and what is committed to models."""

    pools: tuple[MemoryPool, ...]
    budget_bytes: int
    committed_bytes: int


@dataclass(frozen=True, slots=True)
class LoadPreview:
    """What loading a model would do now. `decision` is None when it is loaded already."""

    decision: Decision | None
    footprint: Footprint
    evict: tuple[str, ...]  # the names of the models that are evicted or waited for
    fitting_context_length: int
    free_bytes: int
    budget_bytes: int


class MemoryQueue:
    """See the module. Commits memory to models. Event loop only."""

    def __init__(
        self,
        probe: MemoryProbe,
        budget: Budget,
        rules: ResidencyRules,
        *,
        list_models: Callable[[], Iterable[LoadedModel]],
        evict: Callable[[LoadedModel], None],
        clock: Callable[[], float],
        is_mlx_exclusive: bool = False,
    ) -> None:
        """`is_mlx_exclusive`: MLX models are loaded one at a time."""
        self._is_mlx_exclusive = is_mlx_exclusive
        self._probe = probe
        self._budget = budget
        self._rules = rules
        self._list_models = list_models
        self._evict = evict
        self._clock = clock
        self._queue: dict[LoadedModel, asyncio.Future[None]] = {}
        # The models that wait for other programs, and since when.
        self._blocked_since: dict[LoadedModel, float] = {}

    @property
    def has_waiting(self) -> bool:
        """Whether a model waits for memory."""
        return bool(self._queue)

    async def wait_for_memory(self, model: LoadedModel) -> None:
        """Wait until memory is committed to the model.

        InsufficientMemory: it can never fit. Unavailable: other programs use the memory.
        """
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        model.move_to(ModelState.WAITING)
        self._queue[model] = granted
        try:
            self.schedule()
            await granted
        except BaseException:
            model.has_committed_memory = False
            raise
        finally:
            self._queue.pop(model, None)
            self._blocked_since.pop(model, None)

    def schedule(self) -> None:
        """Grant, refuse, evict and request to yield: all that is possible now."""
        if not self._queue:
            self._set_must_yield(())
            return
        pools = self._measure_capacities()
        first: LoadedModel | None = None
        awaited: tuple[str, ...] = ()
        for model, granted in list(self._queue.items()):
            if granted.done():
                continue
            decision = self._decide(model, pools)
            if decision.action is not Action.WAIT or decision.leaving:
                self._blocked_since.pop(model, None)
            if decision.action is Action.IMPOSSIBLE:
                error = InsufficientMemory(f"{model.name} {decision.explanation}")
                granted.set_exception(error)
            elif decision.action is Action.WAIT and not decision.leaving:
                self._wait_for_other_programs(model, granted, decision)
            elif decision.action is Action.LOAD and self._may_overtake(model, first, pools):
                self._grant(model, granted)
            elif first is None:
                first, awaited = model, decision.leaving
                self._evict_for(model, decision)
        self._set_must_yield(awaited)
        self.report_positions()

    def report_positions(self) -> None:
        """Report their places to the requests of the models in the queue."""
        ahead = 0
        for model in self._queue:
            if model.state is ModelState.WAITING:
                ahead = model.waiting.report_positions(ahead, QueueReason.MEMORY)

    def preview(self, key: str, planned: PlannedLoad) -> LoadPreview:
        """What loading the model of this key in this way would do now. Changes nothing."""
        footprint = planned.footprint
        models = {model.key: model for model in self._list_models()}
        totals = self.measure_totals()
        decision = None
        if key not in models or models[key].state is not ModelState.READY:
            need = self._find_need(planned.config, footprint)
            decision = plan(self._residents(key), need, self._measure_capacities())
        available = compute_max_available_bytes(self._residents(key), self._measure_capacities())
        return LoadPreview(
            decision=decision,
            footprint=footprint,
            evict=tuple(models[k].name for k in decision.leaving) if decision else (),
            fitting_context_length=find_fitting_context(footprint, available),
            free_bytes=min(
                totals.budget_bytes - totals.committed_bytes,
                sum(pool.free_bytes for pool in totals.pools),
            ),
            budget_bytes=totals.budget_bytes,
        )

    def plan_growth(self, model: LoadedModel, more: Mapping[str, int]) -> Decision:
        """What has to happen before a loaded model may take more bytes by pool. Changes nothing."""
        residents = [
            replace(resident, is_pinned=resident.is_pinned or resident.key == model.key)
            for resident in self._residents()
        ]
        return plan(residents, more, self._measure_capacities())

    def measure_room(self) -> Room:
        """The bytes by pool that a model could get, now and at most."""
        residents, pools = self._residents(), self._measure_capacities()
        return Room(
            now=compute_available_bytes(residents, pools),
            at_most=compute_max_available_bytes(residents, pools),
        )

    def list_settled(self, *, excluding: str) -> frozenset[str] | None:
        """The keys of the models that hold memory; None while one of them takes or frees some."""
        residents = self._residents(excluding)
        if any(resident.is_transitioning for resident in residents):
            return None
        return frozenset(resident.key for resident in residents)

    def measure_totals(self) -> MemoryTotals:
        """The totals as they are now."""
        pools = self._probe.measure_pools()
        committed: dict[str, int] = {}
        for resident in self._residents():
            for name, size in resident.committed.items():
                committed[name] = committed.get(name, 0) + size
        budget_bytes = sum_primary_bytes(pools, compute_pool_limits(self._budget, pools))
        pools = tuple(
            pool
            if pool.is_measured
            else replace(pool, free_bytes=pool.total_bytes - committed.get(pool.name, 0))
            for pool in pools
        )
        return MemoryTotals(pools, budget_bytes, sum_primary_bytes(pools, committed))

    def _measure_capacities(self) -> list[PoolCapacity]:
        pools = self._probe.measure_pools()
        limits = compute_pool_limits(self._budget, pools)
        found = [PoolCapacity(pool.name, limits[pool.name], pool.free_bytes) for pool in pools]
        return [*found, ONE_MLX_RUNNER] if self._is_mlx_exclusive else found

    def _find_need(self, config: LoadConfig | None, footprint: Footprint) -> Mapping[str, int]:
        """What the plan commits to a load; without a config, to a dry run."""
        is_counted = self._is_mlx_exclusive and config is not None and config.backend == "mlx"
        return {**footprint.need, MLX_RUNNERS: 1} if is_counted else footprint.need

    def _decide(self, model: LoadedModel, pools: Sequence[PoolCapacity]) -> Decision:
        assert model.footprint is not None
        return plan(
            self._residents(model.key), self._find_need(model.config, model.footprint), pools
        )

    def _residents(self, excluding: str = "") -> list[Resident]:
        now = self._clock()
        return [
            _build_resident(model, self._find_need(model.config, model.footprint), self._rules, now)
            for model in self._list_models()
            if model.has_committed_memory and model.footprint and model.key != excluding
        ]

    def _may_overtake(
        self, model: LoadedModel, first: LoadedModel | None, pools: Sequence[PoolCapacity]
    ) -> bool:
        """Case 2 of the module."""
        if first is None:
            return True
        available = compute_max_available_bytes(self._residents(), pools)
        needs = [self._find_need(m.config, m.footprint) for m in (model, first) if m.footprint]
        return all(sum(n.get(name, 0) for n in needs) <= size for name, size in available.items())

    def _grant(self, model: LoadedModel, granted: asyncio.Future[None]) -> None:
        # Committed here and not by the waiting task: the next model is planned before it resumes.
        model.has_committed_memory = True
        model.move_to(ModelState.LOADING)
        granted.set_result(None)
        model.waiting.report_positions(0, QueueReason.LOADING)

    def _wait_for_other_programs(
        self, model: LoadedModel, granted: asyncio.Future[None], decision: Decision
    ) -> None:
        """Case 3 of the module, for a model that the limits would allow."""
        now = self._clock()
        if any(resident.is_transitioning for resident in self._residents(model.key)):
            self._blocked_since[model] = now  # what is free now says little about other programs
        since = self._blocked_since.setdefault(model, now)
        if now - since > _OTHER_PROGRAMS_SECONDS:
            message = f"{model.name} {decision.explanation}"
            granted.set_exception(Unavailable(message, retry_after_seconds=_OTHER_PROGRAMS_SECONDS))

    def _evict_for(self, model: LoadedModel, decision: Decision) -> None:
        """Case 1 of the module, for a model that cannot be loaded at once."""
        if decision.action is not Action.EVICT:
            return
        logger.info(
            "evicting models",
            extra={"for_model": model.name, "decision": decision.explanation},
        )
        leaving = set(decision.leaving)
        for other in list(self._list_models()):
            if other.key in leaving:
                self._evict(other)

    def _set_must_yield(self, keys: Iterable[str]) -> None:
        awaited = set(keys)
        for model in self._list_models():
            model.must_yield = model.key in awaited


def _build_resident(
    model: LoadedModel, need: Mapping[str, int], rules: ResidencyRules, now: float
) -> Resident:
    """The model, to which `need` is committed, as the memory plan sees it now."""
    unused = need
    if model.state is ModelState.READY:
        assert model.footprint is not None
        unused = {} if model.has_embedding_context else model.footprint.embedding_bytes
    return Resident(
        key=model.key,
        name=model.name,
        committed=need,
        unused=unused,  # until it is ready, it may have taken none
        is_busy=model.is_busy or bool(model.waiting and model.accepts_requests(rules, now)),
        is_pinned=model.is_pinned and model.config is not None,  # a dry run ends soon
        is_in_grace=is_in_grace(model.residency, rules, now),
        is_transitioning=model.state is not ModelState.READY,
        idle_seconds=max(now - model.residency.last_used_at, 0.0),
        reload_seconds=max(model.residency.load_seconds, 0.1),
        priority=model.settings.priority or 0,
    )
