"""Plans a load that fits: from a manifest and settings to a LoadConfig and its footprint.

Which devices it takes is decided first (device_choice.py), for the load as it was requested.

A setting that was set explicitly is kept. Others are reduced in this order, until the need fits the
memory that would be available if no other unpinned model were loaded:

1. the context, down to a context that is still useful
2. the layers on the GPUs, as few fewer as possible (only with gpu_layers = -1 and a GPU)
3. the context, further
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from services.engine.core import HOST, Device, LoadConfig
from services.engine.front.models.planning.device_choice import (
    Room,
    apply_device_settings,
    find_largest,
    find_usable,
    place,
    split,
)
from services.engine.front.models.planning.load_estimator import (
    LoadEstimator,
    PlannedLoad,
    RoomMaker,
)
from services.engine.front.models.planning.model_settings import ModelSettings
from services.engine.front.process.launcher import RunnerLauncher
from services.engine.memory.estimate import (
    Footprint,
    compute_estimate_key,
    find_fitting_context,
)
from services.engine.memory.estimate_cache import EstimateCache
from services.shared.limits import CacheType, KvMode
from services.shared.store.manifest import Capability, Manifest

MIN_CONTEXT = 512
MIN_USEFUL_CONTEXT = 4096
_MAX_DRY_RUNS = 6  # to find how many layers fit
# Fields of LoadConfig that a model's settings override and LoadDefaults otherwise sets.
_OVERRIDABLE_FIELDS = (
    "max_sequences",
    "batch_tokens",
    "threads",
    "cache_type_k",
    "cache_type_v",
    "kv_mode",
    "flash_attention",
)

_POOLED = frozenset({Capability.EMBEDDINGS, Capability.RERANK})

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
    kv_mode: KvMode
    flash_attention: bool | None
    target_step_seconds: float | None
    speculate: bool
    max_queued: int
    backend: Literal["auto", "fake"] = "auto"


class LoadPlanner:
    """See the module. Event loop only; blocking work runs in a thread or in a child process."""

    def __init__(
        self,
        launcher: RunnerLauncher,
        estimates: EstimateCache,
        defaults: LoadDefaults,
        devices: Sequence[Device],
        *,
        resolve_path: PathResolver,
        measure_room: Callable[[], Room],
    ) -> None:
        self._launcher = launcher
        self._estimates = estimates
        self._defaults = defaults
        self._devices = devices
        self._resolve_path = resolve_path
        self._measure_room = measure_room

    async def plan(
        self, manifest: Manifest, settings: ModelSettings, *, make_room: RoomMaker | None = None
    ) -> PlannedLoad:
        """Plan the load of a model with these settings. ModelLoadFailed: a dry run failed.

        The plan may still not fit, when nothing that may be reduced is left. Then it is the load as
        it was requested. `make_room` is awaited before each dry run.
        """
        path = await self._resolve_path(manifest)
        estimator = LoadEstimator(self._launcher, self._estimates, manifest, make_room)
        room = self._measure_room()
        config = build_load_config(
            manifest, settings, self._defaults, str(path), has_gpu=bool(self._devices)
        )
        placed = apply_device_settings(config, settings, self._devices)
        if placed is not None:
            first = await estimator.estimate_trained(placed)
        else:
            first = await self._choose_devices(estimator, config, room)
        if _fits(first.footprint, room.at_most):
            return first
        return await self._reduce(estimator, settings, first, room.at_most)

    async def plan_embeddings(
        self, manifest: Manifest, config: LoadConfig, *, make_room: RoomMaker
    ) -> Mapping[str, int]:
        """The bytes by pool of a context for embeddings beside this load. ModelLoadFailed."""
        if config.backend == "mlx":  # has none
            return {}
        estimator = LoadEstimator(self._launcher, self._estimates, manifest, make_room)
        planned = await estimator.estimate(msgspec.structs.replace(config, embeds=True))
        return planned.footprint.embedding_bytes

    def choose_context_length(self, manifest: Manifest, settings: ModelSettings) -> int:
        """The context that a load would try first."""
        return choose_context_length(manifest, settings, self._defaults)

    def save_footprint(self, planned: PlannedLoad, digest: str) -> None:
        """Keep a footprint that a load has corrected, for the next plans of such loads."""
        self._estimates.correct(compute_estimate_key(digest, planned.config), planned.footprint)

    async def _choose_devices(
        self, estimator: LoadEstimator, config: LoadConfig, room: Room
    ) -> PlannedLoad:
        """Cases 2 to 4 of device_choice.py."""
        devices: Sequence[Device] = find_usable(self._devices, room.at_most)
        if not devices and config.gpu_layers == -1:
            return await estimator.estimate_trained(place(config, ()))
        devices = devices or self._devices
        now, later = (find_largest(devices, part) for part in (room.now, room.at_most))
        planned = await estimator.estimate_trained(place(config, [now]))
        if _fits(planned.footprint, room.now):
            return planned
        if later != now:
            planned = await estimator.estimate_trained(place(config, [later]))
        if _fits(planned.footprint, room.at_most):
            return planned
        return await estimator.estimate_trained(split(planned.config, devices, room.at_most))

    async def _reduce(
        self,
        estimator: LoadEstimator,
        settings: ModelSettings,
        first: PlannedLoad,
        available: Mapping[str, int],
    ) -> PlannedLoad:
        """Cases 1 to 3 of the module; the first plan when none of them makes it fit."""
        may_shrink = not settings.context_length
        may_offload_less = first.config.gpu_layers == -1 and first.config.devices != (HOST,)
        planned = first
        if may_shrink:  # 1
            min_context = MIN_USEFUL_CONTEXT if may_offload_less else MIN_CONTEXT
            planned = await _shrink_context(estimator, planned, available, min_context)
        if may_offload_less and not _fits(planned.footprint, available):  # 2
            planned = await _offload_less(estimator, planned, available)
        if may_shrink and not _fits(planned.footprint, available):  # 3
            planned = await _shrink_context(estimator, planned, available, MIN_CONTEXT)
        return planned if _fits(planned.footprint, available) else first


def build_load_config(
    manifest: Manifest,
    settings: ModelSettings,
    defaults: LoadDefaults,
    path: str,
    *,
    has_gpu: bool,
) -> LoadConfig:
    """The load as requested, without devices, before anything is reduced to make it fit."""

    def choose(name: str) -> object:
        value = getattr(settings, name)
        return getattr(defaults, name) if value is None else value

    backend = manifest.description.backend
    return msgspec.convert(
        {
            **{name: choose(name) for name in _OVERRIDABLE_FIELDS},
            "model_path": path,
            "backend": backend if defaults.backend == "auto" else defaults.backend,
            "context_length": choose_context_length(manifest, settings, defaults),
            "gpu_layers": choose("gpu_layers") if has_gpu and backend == "llamacpp" else 0,
            "target_step_seconds": defaults.target_step_seconds,
            "speculate": defaults.speculate,
            "max_queued": defaults.max_queued,
            "embeds": not _POOLED.isdisjoint(manifest.description.capabilities),
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


async def _shrink_context(
    estimator: LoadEstimator, planned: PlannedLoad, available: Mapping[str, int], min_context: int
) -> PlannedLoad:
    """The plan with the largest context that fits, but not below `min_context` cells."""
    config = planned.config
    if config.context_length <= min_context:
        return planned
    smallest = await estimator.estimate(_replace(config, context_length=MIN_CONTEXT))
    fitting = find_fitting_context(planned.footprint, available, smaller=smallest.footprint)
    cells = max(fitting, min_context)
    return await estimator.estimate(_replace(config, context_length=cells))


async def _offload_less(
    estimator: LoadEstimator, planned: PlannedLoad, available: Mapping[str, int]
) -> PlannedLoad:
    """The plan with as many layers on the GPUs as fit.

    The size of a layer on each of them is taken from the estimate before.
    """
    layers = planned.footprint.gpu_layers
    for _ in range(_MAX_DRY_RUNS):
        if layers <= 0 or _fits(planned.footprint, available):
            break
        footprint = planned.footprint
        fitting = min(
            (
                layers * (available.get(name, 0) - footprint.reserve_bytes.get(name, 0)) // size
                for name, size in footprint.pool_bytes.items()
                if name != HOST and size > 0
            ),
            default=0,
        )
        layers = max(min(fitting, layers - 1), 0)
        changed = _replace(planned.config, gpu_layers=layers)
        planned = await estimator.estimate(changed if layers else place(changed, ()))
    return planned


def _replace(config: LoadConfig, **changes: int) -> LoadConfig:
    return msgspec.structs.replace(config, **changes)


def _fits(footprint: Footprint, available: Mapping[str, int]) -> bool:
    return all(available.get(name, 0) >= size for name, size in footprint.need.items())
