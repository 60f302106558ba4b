"""The memory that the loads of one model take, while its plan is made."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec

from services.engine.core import LoadConfig, ModelInfo
from services.engine.front.process.launcher import RunnerLauncher
from services.engine.memory.estimate import (
    Footprint,
    build_dry_run_footprint,
    build_footprint,
    compute_estimate_key,
    guess_footprint,
)
from services.engine.memory.estimate_cache import EstimateCache
from services.shared.errors import InsufficientMemory
from services.shared.store.manifest import Manifest

logger = logging.getLogger(__name__)

# Waits until the memory of a dry run is committed to the model that is planned.
RoomMaker = Callable[[Footprint], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class PlannedLoad:
    """A load and the memory that it takes."""

    config: LoadConfig
    footprint: Footprint


class LoadEstimator:
    """See the module. For one plan; a dry run takes memory itself, which `make_room` provides."""

    def __init__(
        self,
        launcher: RunnerLauncher,
        estimates: EstimateCache,
        manifest: Manifest,
        make_room: RoomMaker | None,
    ) -> None:
        self._launcher = launcher
        self._estimates = estimates
        self._manifest = manifest
        self._make_room = make_room
        self._has_failed = False  # a dry run: the next ones would fail too

    async def estimate_trained(self, config: LoadConfig) -> PlannedLoad:
        """As `estimate`, with no longer a context than the model was trained for.

        The length in the model's file may be smaller than the one in its manifest.
        """
        planned = await self.estimate(config)
        trained = planned.footprint.trained_context_length
        if 0 < trained < config.context_length:
            planned = await self.estimate(msgspec.structs.replace(config, context_length=trained))
        return planned

    async def estimate(self, config: LoadConfig) -> PlannedLoad:
        """The config with its footprint: a stored one, else a dry run's, else a guess."""
        key = compute_estimate_key(self._manifest.digest, config)
        stored = self._estimates.get(key, config.context_length)
        if stored is not None:
            return PlannedLoad(config, stored)
        info = None if self._has_failed else await self._run_dry(config)
        if info is None:
            self._has_failed = True
            guessed = guess_footprint(
                config,
                weights_bytes=self._manifest.weights_bytes,
                trained_context_length=self._manifest.description.context_length or 0,
            )
            return PlannedLoad(config, guessed)
        footprint = build_footprint(info)
        self._estimates.put(key, footprint)
        return PlannedLoad(config, footprint)

    async def _run_dry(self, config: LoadConfig) -> ModelInfo | None:
        if self._make_room is not None:
            await self._make_room(build_dry_run_footprint(config))
        try:
            return await self._launcher.estimate(config)
        except InsufficientMemory as error:  # for the dry run itself: it allocates no buffers
            logger.warning("no dry run", extra={"reason": error.message})
            return None
