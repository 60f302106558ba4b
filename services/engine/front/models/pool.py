"""Every model there is, and its way from state to state: who is loaded, who comes, who leaves.

    begin ─► bring_up ─► READY ─► leave (idle, evicted, unloaded) or death ─► gone
                │                                                              │
                └─ failed: its waiters are told, it is gone         waiters? ──┴─► begin again

The only place that adds to or removes from the table. Event loop only.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from services.engine.front.models.crash_backoff import Streaks
from services.engine.front.models.load_planner import LoadDefaults, PathOf, Preparation
from services.engine.front.models.loaded_model import Model, State
from services.engine.front.models.loader import STOP_GRACE_SECONDS, Lifecycle
from services.engine.front.models.memory_queue import Admission
from services.engine.front.models.model_settings import SettingsBook
from services.engine.front.models.request import Request, WaitReason
from services.engine.front.models.residency import TurnRules
from services.engine.front.process.launcher import Program
from services.engine.front.tasks import Background
from services.engine.memory.budget import Budget
from services.engine.memory.estimate import EstimateBook
from services.engine.memory.probe import Probe
from services.shared.errors import (
    EngineUnavailable,
    InternalError,
    RunnerDied,
    SpindllError,
)
from services.shared.store.manifest import Manifest

_TICK_SECONDS = 0.25
_CLOSE_GRACE_SECONDS = 3.0  # what ran had the drain time before

logger = logging.getLogger(__name__)


class Fleet:
    """See the module. Made inside a running loop; `close` ends every runner."""

    def __init__(
        self,
        program: Program,
        probe: Probe,
        budget: Budget,
        book: EstimateBook,
        defaults: LoadDefaults,
        *,
        path_of: PathOf,
        settings: SettingsBook,
        rules: TurnRules | None = None,
    ) -> None:
        self.clock = asyncio.get_running_loop().time
        self.rules = rules or TurnRules()
        self.table: dict[str, Model] = {}
        self.is_draining = False
        self.settings = settings
        self.streaks = Streaks(self.clock)
        self.admission = Admission(
            probe,
            budget,
            self.rules,
            models=self.table.values,
            evict=self.leave,
            clock=self.clock,
        )
        self.preparation = Preparation(
            program, book, defaults, path_of=path_of, room_at_best=self.admission.room_at_best
        )
        self._lifecycle = Lifecycle(
            program,
            self.preparation,
            self.admission,
            probe,
            on_requests_ended=self.requests_ended,
            on_death=self._died,
            clock=self.clock,
        )
        self.background = Background()
        self.background.do(self._tick())

    @property
    def loads(self) -> int:
        """Runners started to serve a model, so far."""
        return self._lifecycle.loads

    def begin(self, manifest: Manifest) -> Model:
        """Put a model on its way to being loaded."""
        model = Model(manifest, self.settings.of(manifest), now=self.clock())
        self.table[model.key] = model
        model.bring_up = self.background.do(self._bring_up(model))
        # Not an except clause: a task cancelled before its first step never enters its body.
        model.bring_up.add_done_callback(lambda task: self._brought_up(model, task))
        return model

    def leave(self, model: Model) -> None:
        """End a ready model's runner once its requests are done; new ones wait for its return."""
        if model.state is State.READY:
            model.state = State.STOPPING
            self.background.do(self._take_down(model))

    def abandon_unwanted(self, model: Model) -> None:
        """A model that only waits for memory stops waiting when nobody wants it any more."""
        if model.state is State.WAITING and not model.is_wanted and model.bring_up is not None:
            model.bring_up.cancel()

    def requests_ended(self, model: Model) -> None:
        """Some requests of a model are done: it may leave, or somebody else's turn may come."""
        now = self.clock()
        model.residency = replace(model.residency, last_used=now)
        if model.running_count:
            return
        if model.keep_alive_seconds == 0:
            self._expire(model, now)
        self.turn()

    def turn(self) -> None:
        """Look again at who waits for memory, and for whom."""
        self.admission.turn()
        now = self.clock()
        for model in list(self.table.values()):
            if model.waiting and model.accepts(self.rules, now):
                model.hand_over_waiting(now)

    async def drain(self, seconds: float) -> None:
        """Take nothing new, let what runs finish for so long."""
        self.is_draining = True
        for model in list(self.table.values()):
            model.fail_waiting(EngineUnavailable("the engine is shutting down"))
        busy = [model for model in self.table.values() if model.running_count]
        if not busy:
            return
        try:
            await asyncio.wait_for(asyncio.gather(*(model.idle() for model in busy)), seconds)
        except TimeoutError:
            cut_off = sum(model.running_count for model in busy)
            logger.warning("requests cut off by shutdown", extra={"requests": cut_off})

    async def close(self) -> None:
        """End every runner; when this returns, none is left."""
        self.is_draining = True
        models = list(self.table.values())
        for model in models:
            model.fail_waiting(EngineUnavailable("the engine is shutting down"))
            model.fail_running(EngineUnavailable("the engine is shutting down"))
        await self.background.end()
        ends = [self._lifecycle.take_down(m, grace_seconds=_CLOSE_GRACE_SECONDS) for m in models]
        await asyncio.gather(*ends, return_exceptions=True)

    async def _bring_up(self, model: Model) -> None:
        try:
            await self._lifecycle.bring_up(model)
        except SpindllError as error:
            self._failed(model, error)
        except Exception:
            logger.exception("load broke", extra={"model": model.name})
            self._failed(model, InternalError("internal error"))
        else:
            logger.info(
                "model ready",
                extra={
                    "model": model.name,
                    "seconds": round(model.residency.load_seconds, 2),
                    "context": model.info.context_length if model.info else 0,
                },
            )
            if not model.ready.done():
                model.ready.set_result(None)
            self.turn()

    def _brought_up(self, model: Model, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            self._gone(model)

    def _failed(self, model: Model, error: SpindllError) -> None:
        """A load came to nothing: tell all who waited for it."""
        logger.error("model not loaded", extra={"model": model.name, "reason": error.message})
        if model.has_started:  # a plan alone costs nothing: the next request makes a new one
            why = f"could not be loaded: {error.message}"
            self.streaks.died(model.key, model.name, why, lived_seconds=0.0, error=error)
        model.fail_waiting(error)
        self._gone(model)

    def _died(self, model: Model, why: str) -> None:
        """Its process ended by itself: its requests fail, nobody else notices."""
        lived = self.clock() - model.residency.loaded_at
        sentence = f"the process {why}"
        streak = self.streaks.died(model.key, model.name, sentence, lived_seconds=lived)
        pause = max(streak.pause_left(self.clock()), 1.0)
        error = RunnerDied(
            f"the process of {model.name} ended under this request; try again",
            retry_after_seconds=pause,
        )
        failed = model.fail_running(error)
        logger.error(
            "runner died", extra={"model": model.name, "reason": why, "failed_requests": failed}
        )
        if model.state is State.READY:
            model.state = State.STOPPING
            self.background.do(self._take_down(model))

    async def _take_down(self, model: Model) -> None:
        await model.idle()
        await self._lifecycle.take_down(model, grace_seconds=STOP_GRACE_SECONDS)
        model.fail_running(EngineUnavailable(f"{model.name} was unloaded"))
        logger.info("model unloaded", extra={"model": model.name})
        self._gone(model)

    def _gone(self, model: Model) -> None:
        """It holds nothing any more. Who waits for it starts the next one, in its own turn."""
        del self.table[model.key]
        if not model.gone.done():
            model.gone.set_result(None)
        waiting, model.waiting = model.waiting, {}
        if waiting and not self.is_draining:
            self._begin_again(model, waiting)
        elif waiting:
            model.waiting = waiting
            model.fail_waiting(EngineUnavailable("the engine is shutting down"))
        if not self.is_draining:
            self.turn()

    def _begin_again(self, model: Model, waiting: dict[Request, None]) -> None:
        try:
            self.streaks.require_no_pause(model.key)
        except SpindllError as error:
            model.waiting = waiting
            model.fail_waiting(error)
            return
        again = self.begin(model.manifest)
        again.waiting = waiting
        again.announce(0, WaitReason.LOADING)

    def _expire(self, model: Model, now: float) -> None:
        expires_at = model.expires_at
        is_idle = not (model.is_busy or model.waiting)
        if expires_at is not None and now >= expires_at and is_idle:
            self.leave(model)

    async def _tick(self) -> None:
        """What only the passing of time brings about."""
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            now = self.clock()
            for model in list(self.table.values()):
                model.give_up_overdue(now)
                self.abandon_unwanted(model)
                self._expire(model, now)
            if self.admission.has_waiting:
                self.turn()
