"""Builds the engine front from its settings: the one place that knows all its parts."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from services.engine.core import Device
from services.engine.front.cache_index.build import build_prompt_cache
from services.engine.front.cache_index.prompt_cache import PromptCache
from services.engine.front.gpu_check import GpuCheck
from services.engine.front.models.manager import ModelManager
from services.engine.front.models.manifest_cache import ManifestCache
from services.engine.front.models.planning.load_planner import LoadDefaults
from services.engine.front.models.planning.model_settings import (
    ModelSettings,
    ModelSettingsRegistry,
    read_model_settings,
)
from services.engine.front.models.pool import ModelPool
from services.engine.front.prefix_keeper import PrefixKeeper
from services.engine.front.process.launcher import (
    RUNNER_COMMAND,
    ProcessLauncher,
    RunnerLauncher,
)
from services.engine.front.process.refusing_launcher import RefusingLauncher
from services.engine.front.process.reporting_launcher import ReportingLauncher
from services.engine.front.process.runner_process import RunnerTimeouts
from services.engine.front.rpc.server import EngineServer
from services.engine.memory.budget import parse_budget
from services.engine.memory.estimate_cache import EstimateCache
from services.engine.memory.probe import SystemProbe
from services.engine.settings import EngineSettings
from services.shared.errors import SpindllError
from services.shared.model_name import ModelName
from services.shared.store.manifest import Manifest
from services.shared.store.model_store import ModelStore

_FLUSH_SECONDS = 2.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Engine:
    """The parts of the front that live as long as the process."""

    pool: ModelPool
    manager: ModelManager
    manifests: ManifestCache
    server: EngineServer
    prompt_cache: PromptCache

    def start_preload(self, names: Sequence[str]) -> None:
        """Load these models in the background, one after the other."""
        self.pool.run_until_close(self._preload(names))

    async def stop(self, *, drain_seconds: float) -> None:
        """Let running answers finish for this long, close the streams, end every runner."""
        try:
            await self.pool.drain(drain_seconds)
            await self.server.finish(grace_seconds=_FLUSH_SECONDS)
        finally:
            await self.pool.close()
            await self.prompt_cache.close()

    async def _preload(self, names: Sequence[str]) -> None:
        for name in names:
            try:
                await self.manager.load_and_wait(await self.manifests.resolve(name))
            except SpindllError as error:
                logger.error("model not preloaded", extra={"model": name, "reason": error.message})


def read_model_settings_by_name(
    settings: EngineSettings, devices: Sequence[Device] = ()
) -> dict[str, ModelSettings]:
    """Read models.d; the settings by canonical model name in lower case.

    Raises InvalidSettings or InvalidModelName.
    """
    base = _build_base_settings(settings)
    files = read_model_settings(settings.model_settings_dir, base, devices)
    return {str(ModelName.parse(name)).casefold(): file for name, file in files.items()}


def build_engine(
    settings: EngineSettings,
    settings_by_name: dict[str, ModelSettings],
    *,
    gpu: GpuCheck | None = None,
    runner: Sequence[str] = RUNNER_COMMAND,
) -> Engine:
    """Build the whole front, for a machine with the GPUs of `gpu`. Needs a running event loop.

    Tests run another `runner` command.
    """
    gpu = gpu or GpuCheck()
    store = ModelStore(settings.models_dir)

    async def resolve_path(manifest: Manifest) -> Path:
        return await asyncio.to_thread(store.model_path, manifest)

    timeouts = RunnerTimeouts(
        load_stall_seconds=settings.load_stall_seconds,
        beat_deadline_seconds=settings.beat_deadline_seconds,
        step_deadline_seconds=settings.step_deadline_seconds,
    )
    launcher: RunnerLauncher = ProcessLauncher(runner, timeouts=timeouts)
    if gpu.refusal is not None:
        launcher = RefusingLauncher(gpu.refusal)
    prompt_cache = build_prompt_cache(settings)
    launcher = ReportingLauncher(launcher, prompt_cache.note)
    pool = ModelPool(
        launcher,
        SystemProbe(gpu.devices),
        parse_budget(settings.memory_budget),
        EstimateCache(settings.estimates_path),
        build_load_defaults(settings),
        devices=gpu.devices,
        resolve_path=resolve_path,
        settings=ModelSettingsRegistry(
            _build_base_settings(settings), settings_by_name, gpu.devices
        ),
        build_cache_config=prompt_cache.build_config,
        # Several processes that wire memory for Metal have crashed Macs (mlx issue 3186).
        is_mlx_exclusive=sys.platform == "darwin",
    )
    prompt_cache.start()
    clock = asyncio.get_running_loop().time
    manifests = ManifestCache(store.resolve, clock=clock)
    manager = ModelManager(pool, max_queued=settings.max_queued)
    keeper = PrefixKeeper(pool, manager, prompt_cache)
    pool.call_when_ready(keeper.on_model_ready)
    server = EngineServer(manager, pool, manifests, prompt_cache, keeper, gpu, clock=clock)
    return Engine(pool, manager, manifests, server, prompt_cache)


def build_load_defaults(settings: EngineSettings) -> LoadDefaults:
    """The part of the settings that applies to every load."""
    return LoadDefaults(
        context_length=settings.context_length,
        max_sequences=settings.max_sequences,
        batch_tokens=settings.batch_tokens,
        threads=settings.threads,
        gpu_layers=settings.gpu_layers,
        cache_type_k=settings.cache_type_k,
        cache_type_v=settings.cache_type_v,
        kv_mode=settings.kv_mode,
        flash_attention=settings.flash_attention,
        target_step_seconds=_to_seconds(settings.target_step_ms),
        speculate=settings.speculate,
        max_queued=settings.max_queued,
        backend=settings.engine_backend,
    )


def _build_base_settings(settings: EngineSettings) -> ModelSettings:
    """The engine's settings that a model's own are checked together with, or that outlive loads."""
    return ModelSettings(
        keep_alive_seconds=settings.keep_alive_seconds,
        cache_type_v=settings.cache_type_v,
        flash_attention=settings.flash_attention,
    )


def _to_seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
