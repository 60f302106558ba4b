"""Puts the engine front together from its settings: the one place that knows all the parts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from services.engine.front.models.load_planner import LoadDefaults
from services.engine.front.models.manager import Models
from services.engine.front.models.manifest_cache import Catalogue
from services.engine.front.models.model_settings import (
    ModelSettings,
    SettingsBook,
    read_model_settings,
)
from services.engine.front.models.pool import Fleet
from services.engine.front.process.launcher import RUNNER, RunnerProgram
from services.engine.front.process.runner_process import Patience
from services.engine.front.rpc.server import EngineServer
from services.engine.memory.budget import parse_budget
from services.engine.memory.estimate import EstimateBook
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
    """The parts that outlive a call."""

    pool: Fleet
    models: Models
    catalogue: Catalogue
    server: EngineServer

    async def preload(self, names: Sequence[str]) -> None:
        """Load these, one after the other; one that cannot be is told in the log."""
        for name in names:
            try:
                await self.models.ready(await self.catalogue.resolve(name))
            except SpindllError as error:
                logger.error("not preloaded", extra={"model": name, "reason": error.message})

    async def stop(self, *, drain_seconds: float) -> None:
        """Let running answers finish for so long, hang up, end every runner."""
        try:
            await self.pool.drain(drain_seconds)
            await self.server.finish(grace_seconds=_FLUSH_SECONDS)
        finally:
            await self.pool.close()


def model_settings_by_name(settings: EngineSettings) -> dict[str, ModelSettings]:
    """What models.d says, by canonical name in lower case. InvalidSettings, InvalidModelName."""
    found = read_model_settings(settings.model_settings_dir)
    return {str(ModelName.parse(name)).casefold(): said for name, said in found.items()}


def build_engine(
    settings: EngineSettings,
    settings_of: dict[str, ModelSettings],
    *,
    runner: Sequence[str] = RUNNER,
) -> Engine:
    """The whole front; needs a running loop. `runner` is another program in tests."""
    store = ModelStore(settings.models_dir)

    async def path_of(manifest: Manifest) -> Path:
        return await asyncio.to_thread(store.model_path, manifest)

    patience = Patience(
        load_stall=settings.load_stall_seconds,
        beat=settings.beat_deadline_seconds,
        step=settings.step_deadline_seconds,
    )
    pool = Fleet(
        RunnerProgram(runner, patience=patience),
        SystemProbe(),
        parse_budget(settings.memory_budget),
        EstimateBook(settings.estimates_path),
        load_defaults(settings),
        path_of=path_of,
        settings=SettingsBook(
            ModelSettings(keep_alive_seconds=settings.keep_alive_seconds), settings_of
        ),
    )
    clock = asyncio.get_running_loop().time
    catalogue = Catalogue(store.resolve, clock=clock)
    models = Models(pool, max_queued=settings.max_queued)
    server = EngineServer(models, pool, catalogue, clock=clock)
    return Engine(pool, models, catalogue, server)


def load_defaults(settings: EngineSettings) -> LoadDefaults:
    """The settings that go for every load."""
    return LoadDefaults(
        context_length=settings.context_length,
        max_sequences=settings.max_sequences,
        batch_tokens=settings.batch_tokens,
        threads=settings.threads,
        gpu_layers=settings.gpu_layers,
        cache_type_k=settings.cache_type_k,
        cache_type_v=settings.cache_type_v,
        flash_attention=settings.flash_attention,
        target_step_seconds=_seconds(settings.target_step_ms),
        speculate=settings.speculate,
        max_queued=settings.max_queued,
        backend=settings.engine_backend,
    )


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
