"""The models that are loaded, load, wait for memory or stop; starts and stops them.

    start ──► _load ──► READY ──► stop (idle, evicted, unloaded) or crash ──► _remove
                │                                                               │
                └─ failed: its waiters get the error, _remove      waiters? ────┴──► start again

The only code that adds models to the pool and removes them. Event loop only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import replace

from services.engine.front.models.crash_backoff import CrashBackoff
from services.engine.front.models.load_planner import LoadDefaults, LoadPlanner, PathResolver
from services.engine.front.models.loaded_model import LoadedModel, ModelState
from services.engine.front.models.loader import STOP_GRACE_SECONDS, ModelLoader
from services.engine.front.models.memory_queue import LoadPreview, MemoryQueue, MemoryTotals
from services.engine.front.models.model_settings import ModelSettings, ModelSettingsRegistry
from services.engine.front.models.request import ClientRequest, QueueReason
from services.engine.front.models.residency import ResidencyRules
from services.engine.front.process.launcher import RunnerLauncher
from services.engine.front.tasks import TaskSet
from services.engine.memory.budget import Budget
from services.engine.memory.estimate import EstimateCache
from services.engine.memory.probe import MemoryProbe
from services.shared.errors import (
    EngineUnavailable,
    InternalError,
    RunnerDied,
    SpindllError,
)
from services.shared.store.manifest import Manifest

_TICK_SECONDS = 0.25
_CLOSE_GRACE_SECONDS = 3.0  # running requests have had the drain time before

logger = logging.getLogger(__name__)


class ModelPool:
    """See the module. Create it in a running loop; `close` ends every runner."""

    def __init__(
        self,
        launcher: RunnerLauncher,
        probe: MemoryProbe,
        budget: Budget,
        estimates: EstimateCache,
        defaults: LoadDefaults,
        *,
        resolve_path: PathResolver,
        settings: ModelSettingsRegistry,
        rules: ResidencyRules | None = None,
    ) -> None:
        self._clock = asyncio.get_running_loop().time
        self._probe = probe
        self._rules = rules or ResidencyRules()
        self._models: dict[str, LoadedModel] = {}  # by key
        self._is_draining = False
        self._settings = settings
        self._backoff = CrashBackoff(self._clock)
        self._memory_queue = MemoryQueue(
            probe,
            budget,
            self._rules,
            list_models=self._models.values,
            evict=self.stop,
            clock=self._clock,
        )
        self._planner = LoadPlanner(
            launcher,
            estimates,
            defaults,
            resolve_path=resolve_path,
            compute_max_available_bytes=self._memory_queue.compute_max_available_bytes,
        )
        self._loader = ModelLoader(
            launcher, self._planner, self._memory_queue, probe, clock=self._clock
        )
        self._tasks = TaskSet()
        self._tasks.start(self._tick())

    # ---- what it reports

    @property
    def load_count(self) -> int:
        """The runners started to serve a model so far."""
        return self._loader.load_count

    @property
    def is_draining(self) -> bool:
        """Whether new requests and loads are refused because the engine shuts down."""
        return self._is_draining

    @property
    def models(self) -> list[LoadedModel]:
        """All models of the pool."""
        return list(self._models.values())

    def get(self, manifest: Manifest) -> LoadedModel | None:
        """The model, if it is in the pool."""
        return self._models.get(manifest.digest)

    def list_backing_off(self) -> list[str]:
        """The names of the models that may not start now, after crashes."""
        return self._backoff.list_backing_off()

    def list_problems(self) -> list[str]:
        """The recent crashes and failed loads, a sentence for each model."""
        return self._backoff.list_problems()

    def measure_memory(self) -> MemoryTotals:
        """The memory of the machine, the budget, and what is committed to models."""
        return self._memory_queue.measure_totals()

    async def preview_load(self, manifest: Manifest, settings: ModelSettings) -> LoadPreview:
        """What loading the model with these settings would do now. Changes nothing."""
        requested = settings.with_fallback(self._settings.get(manifest))
        planned = await self._planner.plan(manifest, requested)
        return self._memory_queue.preview(manifest.digest, planned.footprint)

    # ---- what it does

    def start(self, manifest: Manifest) -> LoadedModel:
        """Start to load a model that is not in the pool.

        EngineUnavailable, ModelLoadFailed: it backs off after crashes.
        """
        self._backoff.raise_if_backing_off(manifest.digest)
        model = LoadedModel(
            manifest,
            self._settings.get(manifest),
            self._probe,
            on_requests_finished=self.on_requests_finished,
            on_runner_crashed=self._on_runner_crashed,
            now=self._clock(),
        )
        self._models[model.key] = model
        model.load_task = self._tasks.start(self._load(model))
        # Not an except clause: a task cancelled before its first step does not enter its body.
        model.load_task.add_done_callback(lambda task: self._on_load_task_done(model, task))
        return model

    def configure(self, manifest: Manifest, settings: ModelSettings) -> None:
        """Apply the settings of a Load call, which also ends the model's back-off."""
        self._backoff.clear(manifest.digest)
        self._settings.override(manifest, settings)

    def submit(self, model: LoadedModel, request: ClientRequest, *, max_queued: int) -> None:
        """Give a request to the model's runner, or let it wait. EngineBusy: too many wait."""
        now = self._clock()
        if model.accepts_requests(self._rules, now):
            model.submit(request, now)
            return
        model.waiting.add(request, max_queued=max_queued)
        if model.state is ModelState.WAITING:
            self._memory_queue.report_positions()
        else:
            model.waiting.report_positions(0, QueueReason.LOADING)

    def stop(self, model: LoadedModel) -> None:
        """End a ready model's runner after its requests. New requests wait for the next load."""
        if model.state is ModelState.READY:
            model.move_to(ModelState.STOPPING)
            self._tasks.start(self._stop(model))

    def abandon_if_unneeded(self, model: LoadedModel) -> None:
        """Take a model out of the memory queue if no request or caller waits for it any more."""
        is_queued = model.state is ModelState.WAITING
        if is_queued and not model.has_waiters and model.load_task is not None:
            model.load_task.cancel()

    def on_requests_finished(self, model: LoadedModel) -> None:
        """Some requests of a model have ended: it may expire, or another model may be loaded."""
        now = self._clock()
        model.residency = replace(model.residency, last_used_at=now)
        if model.running_count:
            return
        if model.keep_alive_seconds == 0:
            self._stop_if_expired(model, now)
        self._schedule()

    def run_until_close(self, work: Coroutine[object, object, None]) -> None:
        """Run a coroutine in the background; `close` cancels it."""
        self._tasks.start(work)

    async def drain(self, seconds: float) -> None:
        """Refuse new requests and wait until the running ones have ended, for this long at most."""
        self._is_draining = True
        for model in self.models:
            model.fail_waiting(EngineUnavailable("the engine is shutting down"))
        busy = [model for model in self.models if model.running_count]
        if not busy:
            return
        try:
            idle = asyncio.gather(*(model.wait_until_idle() for model in busy))
            await asyncio.wait_for(idle, seconds)
        except TimeoutError:
            cut_off = sum(model.running_count for model in busy)
            logger.warning("requests cut off by shutdown", extra={"requests": cut_off})

    async def close(self) -> None:
        """End every runner. None is left when this returns."""
        self._is_draining = True
        models = self.models
        for model in models:
            model.fail_waiting(EngineUnavailable("the engine is shutting down"))
            model.fail_running(EngineUnavailable("the engine is shutting down"))
        await self._tasks.cancel_all()
        stops = [self._loader.stop_runner(m, grace_seconds=_CLOSE_GRACE_SECONDS) for m in models]
        await asyncio.gather(*stops, return_exceptions=True)

    # ---- the way of one model

    async def _load(self, model: LoadedModel) -> None:
        try:
            await self._loader.load(model)
        except SpindllError as error:
            self._on_load_failed(model, error)
        except Exception:
            logger.exception("unexpected error in a load", extra={"model": model.name})
            self._on_load_failed(model, InternalError("internal error"))
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
            self._schedule()

    def _on_load_task_done(self, model: LoadedModel, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            self._remove(model)

    def _on_load_failed(self, model: LoadedModel, error: SpindllError) -> None:
        logger.error("model not loaded", extra={"model": model.name, "reason": error.message})
        if model.has_started_runner:  # a plan that failed costs little: no back-off
            reason = f"could not be loaded: {error.message}"
            self._backoff.record_crash(
                model.key, model.name, reason, lived_seconds=0.0, error=error
            )
        model.fail_waiting(error)
        self._remove(model)

    def _on_runner_crashed(self, model: LoadedModel, reason: str) -> None:
        """Fail the requests of the runner. Other models are not affected."""
        lived_seconds = self._clock() - model.residency.loaded_at
        record = self._backoff.record_crash(
            model.key, model.name, f"the process {reason}", lived_seconds=lived_seconds
        )
        error = RunnerDied(
            f"the process of {model.name} ended under this request; try again",
            retry_after_seconds=max(record.remaining_seconds(self._clock()), 1.0),
        )
        failed = model.fail_running(error)
        logger.error(
            "runner crashed",
            extra={"model": model.name, "reason": reason, "failed_requests": failed},
        )
        self.stop(model)

    async def _stop(self, model: LoadedModel) -> None:
        await model.wait_until_idle()
        await self._loader.stop_runner(model, grace_seconds=STOP_GRACE_SECONDS)
        model.fail_running(EngineUnavailable(f"{model.name} was unloaded"))
        logger.info("model unloaded", extra={"model": model.name})
        self._remove(model)

    def _remove(self, model: LoadedModel) -> None:
        """Remove a model that holds no memory. If requests wait for it, start it again."""
        del self._models[model.key]
        if not model.removed.done():
            model.removed.set_result(None)
        if self._is_draining:
            if model.waiting:
                model.fail_waiting(EngineUnavailable("the engine is shutting down"))
            return
        if model.waiting:
            self._start_again(model)
        self._schedule()

    def _start_again(self, model: LoadedModel) -> None:
        try:
            successor = self.start(model.manifest)
        except SpindllError as error:
            model.fail_waiting(error)
            return
        successor.waiting.add_all(model.waiting.take_all())
        successor.waiting.report_positions(0, QueueReason.LOADING)

    def _stop_if_expired(self, model: LoadedModel, now: float) -> None:
        expires_at = model.expires_at
        is_idle = not (model.is_busy or model.waiting)
        if expires_at is not None and now >= expires_at and is_idle:
            self.stop(model)

    def _schedule(self) -> None:
        """Check which models may be loaded now, and which waiting requests may run."""
        self._memory_queue.schedule()
        now = self._clock()
        for model in self.models:
            if model.waiting and model.accepts_requests(self._rules, now):
                model.submit_waiting(now)

    async def _tick(self) -> None:
        """Do what becomes due with time: deadlines, expiry, the end of a minimum residency."""
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            now = self._clock()
            for model in self.models:
                model.waiting.fail_overdue(now)
                self.abandon_if_unneeded(model)
                self._stop_if_expired(model, now)
            if self._memory_queue.has_waiting:
                self._schedule()
