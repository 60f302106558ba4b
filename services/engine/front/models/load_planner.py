"""Plans a load that fits: from a manifest and settings to a LoadConfig and its footprint.

A setting that was set explicitly is kept. Others are reduced in this order, until the need fits the
memory that would be available if no other unpinned model were loaded:

1. the context, down to a context that is still useful
2. the layers on the GPUs, as few fewer as possible (only with gpu_layers = -1 and a GPU)
3. the context, further
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from services.engine.core import LoadConfig
from services.engine.front.models.model_settings import ModelSettings
from services.engine.front.process.launcher import RunnerLauncher
from services.engine.memory.estimate import (
    CONTEXT_STEP,
    EstimateCache,
    Footprint,
    build_footprint,
    compute_estimate_key,
    find_fitting_context,
    guess_footprint,
)
from services.engine.memory.probe import HOST
from services.shared.limits import CacheType
from services.shared.store.manifest import Manifest

MIN_CONTEXT = 512
MIN_USEFUL_CONTEXT = 4096
_MAX_DRY_RUNS = 6
# Fields of LoadConfig that a model's settings override and LoadDefaults otherwise sets.
_OVERRIDABLE_FIELDS = (
    "max_sequences",
    "batch_tokens",
    "threads",
    "cache_type_k",
    "cache_type_v",
    "flash_attention",
)

PathResolver = Callable[[Manifest], Awaitable[Path]]  # the file or folder that the backend opens

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadDefaults:
    """The engine's settings that apply to every model."""

    context_length: int
    max_sequences: int
    batch_tokens: int
    threads: int
    gpu_layers: int
    cache_type_k: CacheType
    cache_type_v: CacheType
    flash_attention: bool | None
    target_step_seconds: float | None
    speculate: bool
    max_queued: int
    backend: Literal["auto", "fake"] = "auto"


@dataclass(frozen=True, slots=True)
class PlannedLoad:
    """A load and the memory that it takes."""

    config: LoadConfig
    footprint: Footprint


class LoadPlanner:
    """See the module. Event loop only; blocking work runs in a thread or in a child process."""

    def __init__(
        self,
        launcher: RunnerLauncher,
        estimates: EstimateCache,
        defaults: LoadDefaults,
        *,
        resolve_path: PathResolver,
        compute_max_available_bytes: Callable[[], Mapping[str, int]],
    ) -> None:
        self._launcher = launcher
        self._estimates = estimates
        self._defaults = defaults
        self._resolve_path = resolve_path
        self._compute_max_available_bytes = compute_max_available_bytes

    async def plan(self, manifest: Manifest, settings: ModelSettings) -> PlannedLoad:
        """Plan the load of a model with these settings. ModelLoadFailed: a dry run failed.

        The plan may still not fit, when nothing that may be reduced is left. Then it is the load as
        it was requested.
        """
        path = await self._resolve_path(manifest)
        available = self._compute_max_available_bytes()
        config = build_load_config(
            manifest, settings, self._defaults, str(path), has_gpu=len(available) > 1
        )
        first = await self._estimate(manifest, config)
        # The training length in the model's file may be smaller than the one in its manifest.
        trained = first.footprint.trained_context_length
        if 0 < trained < config.context_length:
            first = await self._estimate(manifest, _replace(config, context_length=trained))
        if _fits(first.footprint, available):
            return first
        return await self._reduce(manifest, settings, first, available)

    def save_footprint(self, planned: PlannedLoad, digest: str) -> None:
        """Keep a footprint that a load has corrected, for the next plan of the same load."""
        self._estimates.put(compute_estimate_key(digest, planned.config), planned.footprint)

    async def _reduce(
        self,
        manifest: Manifest,
        settings: ModelSettings,
        first: PlannedLoad,
        available: Mapping[str, int],
    ) -> PlannedLoad:
        """Cases 1 to 3 of the module; the first plan when none of them makes it fit."""
        may_shrink = not settings.context_length
        may_offload_less = first.config.gpu_layers == -1
        planned = first
        if may_shrink:  # 1
            min_context = MIN_CONTEXT
            if may_offload_less:
                min_context = min(MIN_USEFUL_CONTEXT, first.config.context_length)
            planned = await self._shrink_context(manifest, planned, available, min_context)
        if may_offload_less and not _fits(planned.footprint, available):  # 2
            planned = await self._offload_less(manifest, planned, available)
        if may_shrink and not _fits(planned.footprint, available):  # 3
            planned = await self._shrink_context(manifest, planned, available, MIN_CONTEXT)
        return planned if _fits(planned.footprint, available) else first

    async def _shrink_context(
        self,
        manifest: Manifest,
        planned: PlannedLoad,
        available: Mapping[str, int],
        min_context: int,
    ) -> PlannedLoad:
        """The plan with the largest context that fits, but not below `min_context` cells."""
        config = planned.config
        for _ in range(_MAX_DRY_RUNS):
            fitting = find_fitting_context(planned.footprint, available)
            cells = max(min(fitting, planned.config.context_length - CONTEXT_STEP), min_context)
            if cells >= planned.config.context_length:
                return planned
            planned = await self._estimate(manifest, _replace(config, context_length=cells))
            if _fits(planned.footprint, available):
                break
        return planned

    async def _offload_less(
        self, manifest: Manifest, planned: PlannedLoad, available: Mapping[str, int]
    ) -> PlannedLoad:
        """The plan with as many layers on the GPUs as fit.

        The size of a layer is taken from the estimate before.
        """
        layers = planned.footprint.gpu_layers
        for _ in range(_MAX_DRY_RUNS):
            if layers <= 0 or _fits(planned.footprint, available):
                break
            used = sum(v for k, v in planned.footprint.pool_bytes.items() if k != HOST)
            reserve = sum(v for k, v in planned.footprint.reserve_bytes.items() if k != HOST)
            free = sum(v for k, v in available.items() if k != HOST)
            fitting = int((free - reserve) / (used / layers)) if used > 0 else 0
            layers = max(min(fitting, layers - 1), 0)
            planned = await self._estimate(manifest, _replace(planned.config, gpu_layers=layers))
        return planned

    async def _estimate(self, manifest: Manifest, config: LoadConfig) -> PlannedLoad:
        """The config with its footprint: a stored one, else a dry run's, else a guess."""
        key = compute_estimate_key(manifest.digest, config)
        stored = self._estimates.get(key)
        if stored is not None:
            return PlannedLoad(config, stored)
        info = await self._launcher.estimate(config)
        if info is None:
            guessed = guess_footprint(
                config,
                weights_bytes=manifest.weights_bytes,
                trained_context_length=manifest.description.context_length or 0,
            )
            return PlannedLoad(config, guessed)
        footprint = build_footprint(info)
        self._estimates.put(key, footprint)
        return PlannedLoad(config, footprint)


def build_load_config(
    manifest: Manifest,
    settings: ModelSettings,
    defaults: LoadDefaults,
    path: str,
    *,
    has_gpu: bool,
) -> LoadConfig:
    """The load as requested, before anything is reduced to make it fit."""

    def choose(name: str) -> object:
        value = getattr(settings, name)
        return getattr(defaults, name) if value is None else value

    backend = "mlx" if manifest.description.format == "mlx" else "llamacpp"
    return msgspec.convert(
        {
            **{name: choose(name) for name in _OVERRIDABLE_FIELDS},
            "model_path": path,
            "backend": backend if defaults.backend == "auto" else defaults.backend,
            "context_length": choose_context_length(manifest, settings, defaults),
            "gpu_layers": choose("gpu_layers") if has_gpu and backend == "llamacpp" else 0,
            "tensor_split": settings.tensor_split or (),
            "main_gpu": settings.main_gpu or 0,
            "target_step_seconds": defaults.target_step_seconds,
            "speculate": defaults.speculate,
            "max_queued": defaults.max_queued,
        },
        LoadConfig,
    )


def choose_context_length(
    manifest: Manifest, settings: ModelSettings, defaults: LoadDefaults
) -> int:
    """The context to try first: from the settings, else the manifest's num_ctx, else the defaults.

    It is never more than the model was trained for, where the manifest knows that.
    """
    trained = manifest.description.context_length or 0
    requested = settings.context_length
    if requested is None:
        num_ctx = manifest.params.get("num_ctx")
        requested = num_ctx if isinstance(num_ctx, int) and num_ctx > 0 else defaults.context_length
    if requested <= 0:
        return trained or MIN_USEFUL_CONTEXT
    return min(requested, trained) if trained else requested


def _replace(config: LoadConfig, **changes: int) -> LoadConfig:
    return msgspec.structs.replace(config, **changes)


def _fits(footprint: Footprint, available: Mapping[str, int]) -> bool:
    return all(available.get(name, 0) >= size for name, size in footprint.need.items())
