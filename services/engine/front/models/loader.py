"""Loads one model and stops its runner: every step that takes time, and a clean end.

load          plan -> wait for memory -> start the runner -> ready -> measure
              a dry run of the plan waits for the memory that it takes itself
stop_runner   stop or kill the runner -> its process ends -> its memory is free again
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

from services.engine.core import HOST, CacheConfig, LoadConfig
from services.engine.front.models.loaded_model import LoadedModel
from services.engine.front.models.memory_queue import MemoryQueue
from services.engine.front.models.model_state import ModelState
from services.engine.front.models.planning.load_estimator import PlannedLoad
from services.engine.front.models.planning.load_planner import LoadPlanner
from services.engine.front.models.residency import Residency
from services.engine.front.process.launcher import RunnerLauncher
from services.engine.memory.estimate import Footprint, build_footprint, correct_footprint
from services.engine.memory.probe import MemoryProbe, measure_free_bytes
from services.shared.errors import InsufficientMemory

STOP_GRACE_SECONDS = 10.0
_RELEASE_TIMEOUT_SECONDS = 5.0  # for a driver to free the memory of a process that ended
_RELEASE_POLL_SECONDS = 0.05
_RELEASED_SHARE = 0.75  # of the committed bytes; the process may have used less than all of them
_OUT_OF_MEMORY_FACTOR = 1.25

logger = logging.getLogger(__name__)


class ModelLoader:
    """Runs loads and unloads for the pool. Event loop only."""

    def __init__(
        self,
        launcher: RunnerLauncher,
        planner: LoadPlanner,
        memory_queue: MemoryQueue,
        probe: MemoryProbe,
        *,
        build_cache_config: Callable[[str], CacheConfig | None],
        clock: Callable[[], float],
    ) -> None:
        """`build_cache_config(digest)`: where a model's runner stores computed prompts."""
        self._launcher = launcher
        self._build_cache_config = build_cache_config
        self._planner = planner
        self._memory_queue = memory_queue
        self._probe = probe
        self._clock = clock
        self.load_count = 0  # loads begun so far

    async def load(self, model: LoadedModel) -> None:
        """Load the model. ModelLoadFailed, of which InsufficientMemory is one.

        When this raises or is cancelled, the process has ended and holds no memory.
        """
        planned = await self._planner.plan(
            model.manifest,
            model.settings,
            make_room=lambda footprint: self._wait_for_dry_run_memory(model, footprint),
        )
        await self._wait_for_memory(model, planned.config, planned.footprint)
        try:
            await self._run_load(model, planned)
        except InsufficientMemory:
            # The plan fitted, but the backend ran out of memory: the estimate was too low.
            logger.warning("load ran out of memory", extra={"model": model.name})
            larger = _with_larger_reserve(planned)
            await self._wait_for_memory(model, larger.config, larger.footprint)
            await self._run_load(model, larger)

    async def stop_runner(self, model: LoadedModel, *, grace_seconds: float) -> None:
        """End the model's runner, if it has one, and wait until its memory is free again."""
        runner, model.runner = model.runner, None
        try:
            if (
                runner is not None
            ):  # after a crash memory may be free already: keep the last measure
                model.last_free_bytes = measure_free_bytes(self._probe)
                await runner.stop(grace_seconds=grace_seconds)
        finally:
            await self._wait_until_memory_is_free(model)

    async def _wait_until_memory_is_free(self, model: LoadedModel) -> None:
        """Wait until the driver reports the runner's memory as free, or until a timeout."""
        before = model.last_free_bytes
        need = (
            model.footprint.need
            if model.footprint is not None and model.has_committed_memory
            else {}
        )
        expected = {
            name: before.get(name, 0) + size * _RELEASED_SHARE
            for name, size in need.items()
            if name != HOST  # the kernel frees main memory before it reports the end of a process
        }
        deadline = self._clock() + _RELEASE_TIMEOUT_SECONDS
        while not self._is_free(expected):
            if self._clock() > deadline:
                logger.warning("memory of a runner not freed in time", extra={"model": model.name})
                break
            await asyncio.sleep(_RELEASE_POLL_SECONDS)
        model.has_committed_memory = False

    def _is_free(self, expected: dict[str, float]) -> bool:
        free = measure_free_bytes(self._probe)
        return all(free[name] >= size for name, size in expected.items() if name in free)

    async def _wait_for_dry_run_memory(self, model: LoadedModel, footprint: Footprint) -> None:
        has_it = model.has_committed_memory and model.footprint == footprint
        if footprint.need_bytes and not has_it:
            await self._wait_for_memory(model, None, footprint)

    async def _wait_for_memory(
        self, model: LoadedModel, config: LoadConfig | None, footprint: Footprint
    ) -> None:
        model.has_committed_memory = False  # what a dry run had
        model.config, model.footprint = config, footprint
        await self._memory_queue.wait_for_memory(model)

    async def _run_load(self, model: LoadedModel, planned: PlannedLoad) -> None:
        self.load_count += 1
        others_before = self._memory_queue.list_settled(excluding=model.key)
        free_before, began_at = measure_free_bytes(self._probe), self._clock()
        try:
            cache = self._build_cache_config(model.key)
            config = msgspec.structs.replace(planned.config, cache=cache)
            await model.start_runner(self._launcher, config)
        except BaseException:
            await self.stop_runner(model, grace_seconds=0)
            raise
        now = self._clock()
        model.residency = Residency(loaded_at=now, load_seconds=now - began_at, last_used_at=now)
        others = self._memory_queue.list_settled(excluding=model.key)
        if others is not None and others == others_before:  # they took and freed nothing
            self._correct_footprint(model, planned, free_before)
        model.move_to(ModelState.READY)

    def _correct_footprint(
        self, model: LoadedModel, planned: PlannedLoad, free_before: dict[str, int]
    ) -> None:
        """Correct the footprint by what this load has taken, while no other model took or freed."""
        assert model.runner is not None
        assert model.info is not None
        # A load knows where its buffers are. The reserve may be that of a second try.
        estimated = msgspec.structs.replace(
            build_footprint(model.info), reserve_bytes=planned.footprint.reserve_bytes
        )
        free_after = measure_free_bytes(self._probe)
        measured = {
            name: free_before.get(name, 0) - free_after.get(name, 0)
            for name in estimated.need
            if name != HOST
        }
        # Another process may have taken or freed memory meanwhile: use only plausible numbers.
        measured = {
            name: size
            for name, size in measured.items()
            if estimated.need[name] / 2 < size < estimated.need[name] * 2
        }
        anonymous = self._probe.measure_process(model.runner.pid)
        if anonymous is not None:
            measured[HOST] = anonymous  # the weights too: they are read, not mapped
        model.footprint = correct_footprint(estimated, measured)
        self._planner.save_footprint(PlannedLoad(planned.config, model.footprint), model.key)


def _with_larger_reserve(planned: PlannedLoad) -> PlannedLoad:
    """The same load with more memory committed to it."""
    footprint = planned.footprint
    reserve = {
        name: size + int(footprint.pool_bytes.get(name, 0) * (_OUT_OF_MEMORY_FACTOR - 1))
        for name, size in footprint.reserve_bytes.items()
    }
    return PlannedLoad(planned.config, msgspec.structs.replace(footprint, reserve_bytes=reserve))
