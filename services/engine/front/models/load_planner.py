"""From a manifest and settings to a load that fits: its configuration, and the memory it takes.

What was asked for in so many words stays as it is. What was left to us gives way, in this order,
until the need fits the budget as it would be with nothing else loaded:

1. the context shrinks, down to a context that is still useful
2. layers stay in main memory, as few as possible (only with gpu_layers = -1 and a GPU)
3. the context shrinks further
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from services.engine.core import CacheType, LoadConfig
from services.engine.front.models.model_settings import ModelSettings
from services.engine.front.process.launcher import Program
from services.engine.memory.estimate import (
    EstimateBook,
    Footprint,
    estimate_key,
    fitting_context,
    footprint_of,
    guess,
)
from services.engine.memory.probe import HOST
from services.shared.store.manifest import Manifest

LEAST_CONTEXT = 512
USEFUL_CONTEXT = 4096
_MOST_DRY_RUNS = 6
# Fields of LoadConfig that a model's settings may say and the defaults say otherwise.
_CHOSEN = (
    "max_sequences",
    "batch_tokens",
    "threads",
    "cache_type_k",
    "cache_type_v",
    "flash_attention",
)

PathOf = Callable[[Manifest], Awaitable[Path]]  # what the backend opens for a model

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadDefaults:
    """What the engine's settings say for every model."""

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
class Prepared:
    """A load and what it takes."""

    config: LoadConfig
    footprint: Footprint


class Preparation:
    """Event loop only; what blocks goes to a thread or to a child."""

    def __init__(
        self,
        program: Program,
        book: EstimateBook,
        defaults: LoadDefaults,
        *,
        path_of: PathOf,
        max_available_bytes: Callable[[], Mapping[str, int]],
    ) -> None:
        self._program = program
        self._book = book
        self._defaults = defaults
        self._path_of = path_of
        self._max_available_bytes = max_available_bytes

    async def prepare(self, manifest: Manifest, settings: ModelSettings) -> Prepared:
        """The load these settings mean here. ModelLoadFailed when a dry run says it cannot be.

        The result may still not fit: then nothing that was left to us could give way any more.
        """
        path = await self._path_of(manifest)
        room = self._max_available_bytes()
        config = load_config(manifest, settings, self._defaults, str(path), has_gpu=len(room) > 1)
        first = await self._prepared(manifest, config)
        # A model may turn out to be trained for less than its manifest knew.
        trained = first.footprint.trained_context_length
        if 0 < trained < config.context_length:
            first = await self._prepared(manifest, _with(config, context_length=trained))
        if _fits(first.footprint, room):
            return first
        return await self._give_way(manifest, settings, first, room)

    def remember(self, prepared: Prepared, digest: str) -> None:
        """Keep a footprint that a load has corrected."""
        self._book.put(estimate_key(digest, prepared.config), prepared.footprint)

    async def _give_way(
        self,
        manifest: Manifest,
        settings: ModelSettings,
        first: Prepared,
        room: Mapping[str, int],
    ) -> Prepared:
        """Cases 1 to 3 of the module; the first try when none of them helps."""
        may_shrink = not settings.context_length
        may_split = first.config.gpu_layers == -1
        tried = first
        if may_shrink:  # 1
            least = min(USEFUL_CONTEXT, first.config.context_length) if may_split else LEAST_CONTEXT
            tried = await self._shrunk(manifest, tried, room, least)
        if may_split and not _fits(tried.footprint, room):  # 2
            tried = await self._split(manifest, tried, room)
        if may_shrink and not _fits(tried.footprint, room):  # 3
            tried = await self._shrunk(manifest, tried, room, LEAST_CONTEXT)
        return tried if _fits(tried.footprint, room) else first

    async def _shrunk(
        self, manifest: Manifest, tried: Prepared, room: Mapping[str, int], least: int
    ) -> Prepared:
        """With the largest context that fits, but not below `least`."""
        config = tried.config
        for _ in range(_MOST_DRY_RUNS):
            fitting = fitting_context(tried.footprint, room)
            cells = max(min(fitting, tried.config.context_length - 256), least)
            if cells >= tried.config.context_length:
                return tried
            tried = await self._prepared(manifest, _with(config, context_length=cells))
            if _fits(tried.footprint, room):
                break
        return tried

    async def _split(
        self, manifest: Manifest, tried: Prepared, room: Mapping[str, int]
    ) -> Prepared:
        """With as many layers on the GPUs as fit; a layer's size is taken from the last try."""
        layers = tried.footprint.gpu_layers
        for _ in range(_MOST_DRY_RUNS):
            if layers <= 0 or _fits(tried.footprint, room):
                break
            used = sum(v for k, v in tried.footprint.pool_bytes.items() if k != HOST)
            kept = sum(v for k, v in tried.footprint.reserve_bytes.items() if k != HOST)
            free = sum(v for k, v in room.items() if k != HOST)
            fitting = int((free - kept) / (used / layers)) if used > 0 else 0
            layers = max(min(fitting, layers - 1), 0)
            tried = await self._prepared(manifest, _with(tried.config, gpu_layers=layers))
        return tried

    async def _prepared(self, manifest: Manifest, config: LoadConfig) -> Prepared:
        key = estimate_key(manifest.digest, config)
        known = self._book.get(key)
        if known is not None:
            return Prepared(config, known)
        info = await self._program.estimate(config)
        if info is None:
            trained = manifest.description.context_length or 0
            weights = manifest.weights_bytes
            return Prepared(
                config, guess(config, weights_bytes=weights, trained_context_length=trained)
            )
        footprint = footprint_of(info)
        self._book.put(key, footprint)
        return Prepared(config, footprint)


def load_config(
    manifest: Manifest,
    settings: ModelSettings,
    defaults: LoadDefaults,
    path: str,
    *,
    has_gpu: bool,
) -> LoadConfig:
    """The load as asked for: settings, then the manifest's num_ctx, then the defaults."""

    def chosen(name: str) -> object:
        said = getattr(settings, name)
        return getattr(defaults, name) if said is None else said

    backend = "mlx" if manifest.description.format == "mlx" else "llamacpp"
    return msgspec.convert(
        {
            **{name: chosen(name) for name in _CHOSEN},
            "model_path": path,
            "backend": backend if defaults.backend == "auto" else defaults.backend,
            "context_length": wanted_context(manifest, settings, defaults),
            "gpu_layers": chosen("gpu_layers") if has_gpu and backend == "llamacpp" else 0,
            "tensor_split": settings.tensor_split or (),
            "main_gpu": settings.main_gpu or 0,
            "target_step_seconds": defaults.target_step_seconds,
            "speculate": defaults.speculate,
            "max_queued": defaults.max_queued,
        },
        LoadConfig,
    )


def wanted_context(manifest: Manifest, settings: ModelSettings, defaults: LoadDefaults) -> int:
    """Cells to ask for first; never more than the model was trained for."""
    trained = manifest.description.context_length or 0
    wanted = settings.context_length
    if wanted is None:
        own = manifest.params.get("num_ctx")
        wanted = own if isinstance(own, int) and own > 0 else defaults.context_length
    if wanted <= 0:
        return trained or USEFUL_CONTEXT
    return min(wanted, trained) if trained else wanted


def _with(config: LoadConfig, **changes: int) -> LoadConfig:
    return msgspec.structs.replace(config, **changes)


def _fits(footprint: Footprint, room: Mapping[str, int]) -> bool:
    return all(room.get(name, 0) >= size for name, size in footprint.need.items())
