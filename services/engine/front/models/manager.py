"""The door to the models: what may be asked of them, by name of a manifest.

A request for a model:
1. it is ready                               -> to its runner
2. its runners keep dying                    -> refused, with the time of the next try
3. it is not there                           -> a load begins, and the request waits for that
4. it is on its way, or leaving, or yielding -> waits, with its place; waiters share one load

Event loop only. What follows from it is the fleet's business (fleet.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from services.engine.core import TextPiece
from services.engine.front.models.loaded_model import Model, State
from services.engine.front.models.model_settings import ModelSettings, must_reload
from services.engine.front.models.pool import Fleet
from services.engine.front.models.request import Request, WaitReason
from services.engine.memory.estimate import Footprint, fitting_context
from services.engine.memory.plan import Decision
from services.shared.errors import EngineUnavailable
from services.shared.store.manifest import Manifest


@dataclass(frozen=True, slots=True)
class PlanReport:
    """What loading a model would do now. `decision` None: it is loaded already."""

    decision: Decision | None
    footprint: Footprint
    evict: tuple[str, ...]  # names
    fitting_context_length: int
    free_bytes: int
    budget_bytes: int


class Models:
    """See the module."""

    def __init__(self, fleet: Fleet, *, most_waiting: int) -> None:
        self._fleet = fleet
        self._most_waiting = most_waiting

    def place(self, manifest: Manifest, request: Request) -> None:
        """Send a request on its way. EngineUnavailable, EngineBusy, ModelLoadFailed: refused."""
        self._require_accepting()
        fleet = self._fleet
        model = fleet.table.get(manifest.digest)
        if model is not None and model.accepts(fleet.rules, fleet.clock()):  # 1
            model.hand_over(request, fleet.clock())
            return
        if model is None:
            fleet.streaks.require_no_pause(manifest.digest)  # 2
            model = fleet.begin(manifest)  # 3
        model.enqueue(request, most=self._most_waiting)  # 4
        if model.state is State.WAITING:
            fleet.admission.announce()
        else:
            model.announce(0, WaitReason.LOADING)

    def cancel(self, manifest: Manifest, request: Request) -> None:
        """Stop a request wherever it is. One that ended is fine."""
        model = self._fleet.table.get(manifest.digest)
        if model is not None and not request.has_ended:
            model.cancel(request)
            self._fleet.abandon_unwanted(model)

    async def load(self, manifest: Manifest, settings: ModelSettings) -> tuple[bool, Model]:
        """Load it, or change how it is loaded; (whether it was there already, the model)."""
        self._require_accepting()
        fleet = self._fleet
        fleet.streaks.forgive(manifest.digest)
        fleet.settings.choose(manifest, settings)
        model = fleet.table.get(manifest.digest)
        if model is not None and model.state is State.READY:
            assert model.config is not None
            cells = model.config.context_length
            if not must_reload(model.settings, settings, context_length=cells):
                model.resettle(settings)
                return True, model
            fleet.leave(model)
        return False, await self.ready(manifest)

    async def ready(self, manifest: Manifest) -> Model:
        """The model, loaded; waits for that. ModelLoadFailed, EngineUnavailable."""
        while True:
            self._require_accepting()
            model = self._fleet.table.get(manifest.digest)
            if model is None:
                self._fleet.streaks.require_no_pause(manifest.digest)
                model = self._fleet.begin(manifest)
            model.awaiting += 1
            try:
                if model.state is State.STOPPING:
                    await asyncio.shield(model.gone)
                    continue
                await asyncio.shield(model.ready)
                return model
            finally:
                model.awaiting -= 1
                self._fleet.abandon_unwanted(model)

    async def unload(self, manifest: Manifest, *, force: bool) -> bool:
        """Stop it, after its requests finished unless forced; False when it was not there."""
        model = self._fleet.table.get(manifest.digest)
        if model is None:
            return False
        error = EngineUnavailable(f"{model.name} was unloaded")
        if model.state in (State.WAITING, State.LOADING):
            model.fail_waiting(error)
            assert model.bring_up is not None
            model.bring_up.cancel()
        self._fleet.leave(model)
        if force:
            model.fail_waiting(error)
            model.fail_running(error)
        await asyncio.shield(model.gone)
        return True

    async def tokenize(
        self, manifest: Manifest, pieces: Sequence[TextPiece], *, add_special: bool
    ) -> tuple[int, ...]:
        """Token ids of a text; loads the model when it is not."""
        model = await self.ready(manifest)
        try:
            return await model.tokenize(pieces, add_special=add_special)
        finally:
            self._fleet.requests_ended(model)

    async def plan(self, manifest: Manifest, settings: ModelSettings) -> PlanReport:
        """What loading it with these settings would do, and why. Does nothing."""
        fleet = self._fleet
        wanted = settings.over(fleet.settings.of(manifest))
        prepared = await fleet.preparation.prepare(manifest, wanted)
        admission = fleet.admission
        pools, budget, promised = admission.totals()
        model = fleet.table.get(manifest.digest)
        decision = None
        if model is None or model.state is not State.READY:
            decision = admission.decide(prepared.footprint.need, besides=manifest.digest)
        names = {m.key: m.name for m in fleet.table.values()}
        best = admission.room_at_best(besides=manifest.digest)
        return PlanReport(
            decision=decision,
            footprint=prepared.footprint,
            evict=tuple(names[key] for key in decision.leaving) if decision else (),
            fitting_context_length=fitting_context(prepared.footprint, best),
            free_bytes=min(budget - promised, sum(pool.free_bytes for pool in pools)),
            budget_bytes=budget,
        )

    def _require_accepting(self) -> None:
        if self._fleet.is_draining:
            raise EngineUnavailable("the engine is shutting down")
