"""All models together: what is asked of them, what they report, and what becomes due with time.

The pool builds the parts that load, queue and stop models, and connects them. The life of
each model, from its load to its removal, is in lifecycle.py. Event loop only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace

from services.engine.core import CacheConfig, Device
from services.engine.front.models.client_request import ClientRequest, QueueReason
from services.engine.front.models.crash_backoff import CrashBackoff
from services.engine.front.models.embedding_memory import EmbeddingMemory
from services.engine.front.models.lifecycle import ModelLifecycle
from services.engine.front.models.loaded_model import LoadedModel
from services.engine.front.models.loader import ModelLoader
from services.engine.front.models.memory_queue import LoadPreview, MemoryQueue, MemoryTotals
from services.engine.front.models.model_state import ModelState
from services.engine.front.models.planning.load_planner import (
    LoadDefaults,
    LoadPlanner,
    PathResolver,
)
from services.engine.front.models.planning.model_settings import (
    ModelSettings,
    ModelSettingsRegistry,
)
from services.engine.front.models.residency import ResidencyRules
from services.engine.front.process.launcher import RunnerLauncher
from services.engine.front.tasks import TaskSet
from services.engine.memory.budget import Budget
from services.engine.memory.estimate_cache import EstimateCache
from services.engine.memory.probe import MemoryProbe
from services.shared.errors import EngineUnavailable
from services.shared.store.manifest import Manifest

_TICK_SECONDS = 0.25

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
        devices: Sequence[Device] = (),
        resolve_path: PathResolver,
        settings: ModelSettingsRegistry,
        rules: ResidencyRules | None = None,
        build_cache_config: Callable[[str], CacheConfig | None] = lambda _: None,
        is_mlx_exclusive: bool = False,
    ) -> None:
        """`build_cache_config(digest)`: where a model's runner stores computed prompts.

        `is_mlx_exclusive`: MLX models are loaded one at a time.
        """
        self._clock = asyncio.get_running_loop().time
        self._rules = rules or ResidencyRules()
        self._settings = settings
        self._backoff = CrashBackoff(self._clock)
        self._memory_queue = MemoryQueue(
            probe,
            budget,
            self._rules,
            # Through the pool: the lifecycle is built last, from the queue and the loader.
            list_models=lambda: self.models,
            evict=self.stop,
            clock=self._clock,
            is_mlx_exclusive=is_mlx_exclusive,
        )
        self._planner = LoadPlanner(
            launcher,
            estimates,
            defaults,
            devices,
            resolve_path=resolve_path,
            measure_room=self._memory_queue.measure_room,
        )
        self._embedding_memory = EmbeddingMemory(
            self._planner,
            self._memory_queue,
            list_models=lambda: self.models,
            evict=self.stop,
        )
        self._loader = ModelLoader(
            launcher,
            self._planner,
            self._memory_queue,
            probe,
            build_cache_config=build_cache_config,
            clock=self._clock,
        )
        self._lifecycle = ModelLifecycle(
            self._loader,
            self._memory_queue,
            self._backoff,
            settings,
            probe,
            self._rules,
            clock=self._clock,
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
        return self._lifecycle.is_draining

    @property
    def models(self) -> list[LoadedModel]:
        """All models of the pool."""
        return self._lifecycle.models

    def get(self, manifest: Manifest) -> LoadedModel | None:
        """The model, if it is in the pool."""
        return self._lifecycle.get(manifest.digest)

    def get_by_name(self, name: str) -> LoadedModel | None:
        """The model of this canonical name, if it is in the pool; it need not be stored any more."""
        return next((model for model in self.models if model.name == name), None)

    def find_context_length(self, manifest: Manifest) -> int:
        """The context of the model, or if it is not loaded the one that a load would try first."""
        model = self.get(manifest)
        if model is not None and model.info is not None:
            return model.info.context_length
        return self._planner.choose_context_length(manifest, self._settings.get(manifest))

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
        """What loading the model with these settings would do now. Changes nothing.

        InvalidSettings.
        """
        requested = self._settings.resolve(manifest, settings)
        planned = await self._planner.plan(manifest, requested)
        return self._memory_queue.preview(manifest.digest, planned)

    # ---- what it does

    def start(self, manifest: Manifest) -> LoadedModel:
        """Start to load a model that is not in the pool.

        EngineUnavailable, ModelLoadFailed: it backs off after crashes.
        """
        return self._lifecycle.start(manifest)

    def configure(self, manifest: Manifest, settings: ModelSettings) -> None:
        """Apply the settings of a Load call, which also ends the model's back-off.

        InvalidSettings.
        """
        self._settings.override(manifest, settings)
        self._backoff.clear(manifest.digest)

    def update_settings(self, model: LoadedModel, settings: ModelSettings) -> None:
        """Apply those settings of a Load call that need no new load. The call counts as a use."""
        model.update_settings(settings)
        model.residency = replace(model.residency, last_used_at=self._clock())

    def submit(self, model: LoadedModel, request: ClientRequest, *, max_queued: int) -> None:
        """Give a request to the model's runner, or let it wait. EngineBusy: too many wait."""
        if self.accepts_requests(model):
            model.submit(request, self._clock())
            return
        model.waiting.add(request, max_queued=max_queued)
        if model.state is ModelState.WAITING:
            self._memory_queue.report_positions()
        else:
            model.waiting.report_positions(0, QueueReason.LOADING)

    def accepts_requests(self, model: LoadedModel) -> bool:
        """Whether a new request may go to the model's runner now."""
        return model.accepts_requests(self._rules, self._clock())

    async def reserve_for_embeddings(self, model: LoadedModel) -> None:
        """Commit memory to the model's context for embeddings; see EmbeddingMemory.reserve."""
        await self._embedding_memory.reserve(model)

    def stop(self, model: LoadedModel) -> None:
        """End a ready model's runner after its requests. New requests wait for the next load."""
        self._lifecycle.stop(model)

    def end(self, model: LoadedModel) -> None:
        """Stop a ready model, or give up a load. What waits for it waits for the next load."""
        if model.state is not ModelState.READY and model.load_task is not None:
            model.load_task.cancel()
        self.stop(model)

    def abandon_if_unneeded(self, model: LoadedModel) -> None:
        """Give up a load that no request or caller waits for any more.

        A load that has begun is given up only if another model waits for memory.
        """
        is_in_the_way = model.state is ModelState.LOADING and self._memory_queue.has_waiting
        is_given_up = model.state is ModelState.WAITING or is_in_the_way
        if is_given_up and not model.has_waiters and model.load_task is not None:
            model.load_task.cancel()

    def call_when_ready(self, callback: Callable[[LoadedModel], None]) -> None:
        """Call this with each model that was loaded, after its waiting requests have begun."""
        self._lifecycle.on_ready = callback

    def run_until_close(self, work: Coroutine[object, object, None]) -> None:
        """Run a coroutine in the background; `close` cancels it."""
        self._tasks.start(work)

    async def drain(self, seconds: float) -> None:
        """Refuse new requests, and let the running ones end for this long; then end the rest.

        Those get an error while their streams are still open.
        """
        self._lifecycle.start_draining()
        busy = [model for model in self.models if model.running_count]
        if not busy:
            return
        try:
            idle = asyncio.gather(*(model.wait_until_idle() for model in busy))
            await asyncio.wait_for(idle, seconds)
        except TimeoutError:
            error = EngineUnavailable("the engine is shutting down")
            cut_off = sum(model.fail_running(error) for model in busy)
            logger.warning("requests cut off by shutdown", extra={"requests": cut_off})

    async def close(self) -> None:
        """End every runner. None is left when this returns."""
        self._lifecycle.start_draining()  # at once: the tasks take a moment to end
        await self._tasks.cancel_all()
        await self._lifecycle.close()

    async def _tick(self) -> None:
        """Do what becomes due with time: deadlines, expiry, the end of a minimum residency."""
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            now = self._clock()
            for model in self.models:
                model.waiting.fail_overdue(now)
                self.abandon_if_unneeded(model)
                self._lifecycle.stop_if_expired(model, now)
            if self._memory_queue.has_waiting:
                self._lifecycle.schedule()
