"""The life of each model of the pool: its load, its stop, a crash, its removal, its next load.

    start ──► _load ──► READY ──► stop (idle, evicted, unloaded) or crash ──► _remove
                │                                                               │
                └─ failed: its waiters get the error, _remove      waiters? ────┴──► start again

The only code that adds models to the pool and removes them. Event loop only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from services.engine.front.models.client_request import QueueReason
from services.engine.front.models.crash_backoff import CrashBackoff
from services.engine.front.models.loaded_model import LoadedModel
from services.engine.front.models.loader import STOP_GRACE_SECONDS, ModelLoader
from services.engine.front.models.memory_queue import MemoryQueue
from services.engine.front.models.model_state import ModelState
from services.engine.front.models.planning.model_settings import ModelSettingsRegistry
from services.engine.front.models.residency import ResidencyRules
from services.engine.front.tasks import TaskSet
from services.engine.memory.probe import MemoryProbe
from services.shared.errors import EngineUnavailable, InternalError, RunnerDied, SpindllError
from services.shared.store.manifest import Manifest

_CLOSE_GRACE_SECONDS = 3.0  # running requests have had the drain time before

logger = logging.getLogger(__name__)


class ModelLifecycle:
    """See the module. Owns the table of the models and the tasks that load and stop them."""

    def __init__(
        self,
        loader: ModelLoader,
        memory_queue: MemoryQueue,
        backoff: CrashBackoff,
        settings: ModelSettingsRegistry,
        probe: MemoryProbe,
        rules: ResidencyRules,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._loader = loader
        self._memory_queue = memory_queue
        self._backoff = backoff
        self._settings = settings
        self._probe = probe
        self._rules = rules
        self._clock = clock
        self._models: dict[str, LoadedModel] = {}  # by key
        self._is_draining = False
        self._tasks = TaskSet()
        self.on_ready: Callable[[LoadedModel], None] = lambda _: None

    @property
    def is_draining(self) -> bool:
        """Whether no model is started again because the engine shuts down."""
        return self._is_draining

    @property
    def models(self) -> list[LoadedModel]:
        """All models of the pool."""
        return list(self._models.values())

    def get(self, key: str) -> LoadedModel | None:
        """The model of this key, if it is in the pool."""
        return self._models.get(key)

    def start(self, manifest: Manifest) -> LoadedModel:
        """Start to load a model that is not in the pool.

        EngineUnavailable, ModelLoadFailed: it backs off after crashes.
        """
        self._backoff.raise_if_backing_off(manifest.digest)
        model = LoadedModel(
            manifest,
            self._settings.get(manifest),
            self._probe,
            on_requests_finished=self._on_requests_finished,
            on_runner_crashed=self._on_runner_crashed,
            now=self._clock(),
        )
        self._models[model.key] = model
        model.load_task = self._tasks.start(self._load(model))
        # Not an except clause: a task cancelled before its first step does not enter its body.
        model.load_task.add_done_callback(lambda task: self._on_load_task_done(model, task))
        return model

    def stop(self, model: LoadedModel) -> None:
        """End a ready model's runner after its requests. New requests wait for the next load."""
        if model.state is ModelState.READY:
            model.move_to(ModelState.STOPPING)
            self._tasks.start(self._stop(model))

    def stop_if_expired(self, model: LoadedModel, now: float) -> None:
        """Stop an idle model whose keep-alive time is over."""
        expires_at = model.expires_at
        is_idle = not (model.is_busy or model.has_waiters)
        if expires_at is not None and now >= expires_at and is_idle:
            self.stop(model)

    def schedule(self) -> None:
        """Check which models may be loaded now, and which waiting requests may run."""
        self._memory_queue.schedule()
        now = self._clock()
        for model in self.models:
            if model.waiting and model.accepts_requests(self._rules, now):
                model.submit_waiting(now)

    def start_draining(self) -> None:
        """End all waiting requests with an error. From now on no model is started again."""
        self._is_draining = True
        for model in self.models:
            model.fail_waiting(EngineUnavailable("the engine is shutting down"))

    async def close(self) -> None:
        """End every request and every runner. None is left when this returns."""
        self.start_draining()
        models = self.models
        for model in models:
            model.fail_running(EngineUnavailable("the engine is shutting down"))
        await self._tasks.cancel_all()
        stops = [self._loader.stop_runner(m, grace_seconds=_CLOSE_GRACE_SECONDS) for m in models]
        await asyncio.gather(*stops, return_exceptions=True)

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
            self.schedule()
            self.on_ready(model)

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

    def _on_requests_finished(self, model: LoadedModel) -> None:
        """Some requests of a model have ended: it may expire, or another model may be loaded."""
        now = self._clock()
        model.residency = replace(model.residency, last_used_at=now)
        if model.running_count:
            return
        if model.keep_alive_seconds == 0:
            self.stop_if_expired(model, now)
        self.schedule()

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
        self.schedule()

    def _start_again(self, model: LoadedModel) -> None:
        try:
            successor = self.start(model.manifest)
        except SpindllError as error:
            model.fail_waiting(error)
            return
        successor.waiting.add_all(model.waiting.take_all())
        successor.waiting.report_positions(0, QueueReason.LOADING)
