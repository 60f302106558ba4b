"""Every model there is, and its way from state to state: who is loaded, who comes, who leaves.

    begin ─► bring_up ─► READY ─► leave (idle, evicted, unloaded) or death ─► gone
                │                                                              │
                └─ failed: its waiters are told, it is gone         waiters? ──┴─► begin again

The only place that adds to or removes from the table. Event loop only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import replace

from services.engine.front.models.crash_backoff import Streaks
from services.engine.front.models.load_planner import LoadDefaults, PathOf, Preparation
from services.engine.front.models.loaded_model import Model, State
from services.engine.front.models.loader import STOP_GRACE_SECONDS, Lifecycle
from services.engine.front.models.memory_queue import Admission, LoadPreview, MemoryTotals
from services.engine.front.models.model_settings import ModelSettings, SettingsBook
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
        self._clock = asyncio.get_running_loop().time
        self._probe = probe
        self._rules = rules or TurnRules()
        self._models: dict[str, Model] = {}  # by key
        self._is_draining = False
        self._settings = settings
        self._backoff = Streaks(self._clock)
        self._memory_queue = Admission(
            probe,
            budget,
            self._rules,
            list_models=self._models.values,
            evict=self.stop,
            clock=self._clock,
        )
        self._planner = Preparation(
            program,
            book,
            defaults,
            path_of=path_of,
            max_available_bytes=self._memory_queue.room_at_best,
        )
        self._loader = Lifecycle(
            program, self._planner, self._memory_queue, probe, clock=self._clock
        )
        self._tasks = Background()
        self._tasks.do(self._tick())

    @property
    def loads(self) -> int:
        """Runners started to serve a model, so far."""
        return self._loader.loads

    @property
    def is_draining(self) -> bool:
        """Whether new requests and loads are refused because the engine shuts down."""
        return self._is_draining

    @property
    def models(self) -> list[Model]:
        """The models that wait for memory, load, are ready or stop."""
        return list(self._models.values())

    def get(self, manifest: Manifest) -> Model | None:
        """The model, when it is in the pool."""
        return self._models.get(manifest.digest)

    def backing_off(self) -> list[str]:
        """The names of the models that are not started now because they crashed before."""
        return self._backoff.backing_off()

    def problems(self) -> list[str]:
        """Crashes and failed loads of the last minutes, a sentence each."""
        return self._backoff.problems()

    def memory_totals(self) -> MemoryTotals:
        """The memory of the machine and the models' part of it."""
        return self._memory_queue.totals()

    async def preview_load(self, manifest: Manifest, settings: ModelSettings) -> LoadPreview:
        """What loading a model with these settings would do now. Changes nothing."""
        wanted = settings.over(self._settings.of(manifest))
        prepared = await self._planner.prepare(manifest, wanted)
        return self._memory_queue.preview(manifest.digest, prepared.footprint)

    def run_until_close(self, work: Coroutine[object, object, None]) -> None:
        """Run a coroutine beside the pool; `close` cancels it."""
        self._tasks.do(work)

    def start(self, manifest: Manifest) -> Model:
        """Start to load a model. EngineUnavailable, ModelLoadFailed: it backs off after crashes."""
        self._backoff.require_no_pause(manifest.digest)
        model = Model(
            manifest,
            self._settings.of(manifest),
            self._probe,
            on_requests_finished=self.on_requests_finished,
            on_runner_crashed=self._on_runner_crashed,
            now=self._clock(),
        )
        self._models[model.key] = model
        model.bring_up = self._tasks.do(self._bring_up(model))
        # Not an except clause: a task cancelled before its first step never enters its body.
        model.bring_up.add_done_callback(lambda task: self._brought_up(model, task))
        return model

    def configure(self, manifest: Manifest, settings: ModelSettings) -> None:
        """Take settings of a Load call, which also ends the model's back-off."""
        self._backoff.forgive(manifest.digest)
        self._settings.choose(manifest, settings)

    def submit(self, model: Model, request: Request, *, max_queued: int) -> None:
        """Give a request to the model's runner, or let it wait for that. EngineBusy."""
        now = self._clock()
        if model.accepts(self._rules, now):
            model.hand_over(request, now)
            return
        model.enqueue(request, most=max_queued)
        if model.state is State.WAITING:
            self._memory_queue.announce()
        else:
            model.announce(0, WaitReason.LOADING)

    def stop(self, model: Model) -> None:
        """End a ready model's runner once its requests are done; new ones wait for its return."""
        if model.state is State.READY:
            model.move_to(State.STOPPING)
            self._tasks.do(self._take_down(model))

    def abandon_unwanted(self, model: Model) -> None:
        """A model that only waits for memory stops waiting when nobody wants it any more."""
        if model.state is State.WAITING and not model.is_wanted and model.bring_up is not None:
            model.bring_up.cancel()

    def on_requests_finished(self, model: Model) -> None:
        """Some requests of a model are done: it may leave, or somebody else's turn may come."""
        now = self._clock()
        model.residency = replace(model.residency, last_used=now)
        if model.running_count:
            return
        if model.keep_alive_seconds == 0:
            self._expire(model, now)
        self._turn()

    def _turn(self) -> None:
        """Look again at who waits for memory, and for whom."""
        self._memory_queue.turn()
        now = self._clock()
        for model in list(self._models.values()):
            if model.waiting and model.accepts(self._rules, now):
                model.hand_over_waiting(now)

    async def drain(self, seconds: float) -> None:
        """Take nothing new, let what runs finish for so long."""
        self._is_draining = True
        for model in list(self._models.values()):
            model.fail_waiting(EngineUnavailable("the engine is shutting down"))
        busy = [model for model in self._models.values() if model.running_count]
        if not busy:
            return
        try:
            await asyncio.wait_for(asyncio.gather(*(model.idle() for model in busy)), seconds)
        except TimeoutError:
            cut_off = sum(model.running_count for model in busy)
            logger.warning("requests cut off by shutdown", extra={"requests": cut_off})

    async def close(self) -> None:
        """End every runner; when this returns, none is left."""
        self._is_draining = True
        models = list(self._models.values())
        for model in models:
            model.fail_waiting(EngineUnavailable("the engine is shutting down"))
            model.fail_running(EngineUnavailable("the engine is shutting down"))
        await self._tasks.end()
        ends = [self._loader.take_down(m, grace_seconds=_CLOSE_GRACE_SECONDS) for m in models]
        await asyncio.gather(*ends, return_exceptions=True)

    async def _bring_up(self, model: Model) -> None:
        try:
            await self._loader.bring_up(model)
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
            self._turn()

    def _brought_up(self, model: Model, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            self._gone(model)

    def _failed(self, model: Model, error: SpindllError) -> None:
        """A load came to nothing: tell all who waited for it."""
        logger.error("model not loaded", extra={"model": model.name, "reason": error.message})
        if model.has_started:  # a plan alone costs nothing: the next request makes a new one
            why = f"could not be loaded: {error.message}"
            self._backoff.died(model.key, model.name, why, lived_seconds=0.0, error=error)
        model.fail_waiting(error)
        self._gone(model)

    def _on_runner_crashed(self, model: Model, why: str) -> None:
        """Its process ended by itself: its requests fail, nobody else notices."""
        lived = self._clock() - model.residency.loaded_at
        sentence = f"the process {why}"
        streak = self._backoff.died(model.key, model.name, sentence, lived_seconds=lived)
        pause = max(streak.pause_left(self._clock()), 1.0)
        error = RunnerDied(
            f"the process of {model.name} ended under this request; try again",
            retry_after_seconds=pause,
        )
        failed = model.fail_running(error)
        logger.error(
            "runner died", extra={"model": model.name, "reason": why, "failed_requests": failed}
        )
        if model.state is State.READY:
            model.move_to(State.STOPPING)
            self._tasks.do(self._take_down(model))

    async def _take_down(self, model: Model) -> None:
        await model.idle()
        await self._loader.take_down(model, grace_seconds=STOP_GRACE_SECONDS)
        model.fail_running(EngineUnavailable(f"{model.name} was unloaded"))
        logger.info("model unloaded", extra={"model": model.name})
        self._gone(model)

    def _gone(self, model: Model) -> None:
        """It holds nothing any more. Who waits for it starts the next one, in its own turn."""
        del self._models[model.key]
        if not model.gone.done():
            model.gone.set_result(None)
        waiting, model.waiting = model.waiting, {}
        if waiting and not self._is_draining:
            self._begin_again(model, waiting)
        elif waiting:
            model.waiting = waiting
            model.fail_waiting(EngineUnavailable("the engine is shutting down"))
        if not self._is_draining:
            self._turn()

    def _begin_again(self, model: Model, waiting: dict[Request, None]) -> None:
        try:
            again = self.start(model.manifest)
        except SpindllError as error:
            model.waiting = waiting
            model.fail_waiting(error)
            return
        again.waiting = waiting
        again.announce(0, WaitReason.LOADING)

    def _expire(self, model: Model, now: float) -> None:
        expires_at = model.expires_at
        is_idle = not (model.is_busy or model.waiting)
        if expires_at is not None and now >= expires_at and is_idle:
            self.stop(model)

    async def _tick(self) -> None:
        """What only the passing of time brings about."""
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            now = self._clock()
            for model in list(self._models.values()):
                model.give_up_overdue(now)
                self.abandon_unwanted(model)
                self._expire(model, now)
            if self._memory_queue.has_waiting:
                self._turn()
