"""The door to the models: what may be asked of them, by name of a manifest.

A request for a model:
1. it is ready                               -> to its runner
2. its runners keep dying                    -> refused, with the time of the next try
3. it is not there                           -> a load begins, and the request waits for that
4. it is on its way, or leaving, or yielding -> waits, with its place; waiters share one load

Event loop only. What follows from it is the fleet's business (fleet.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from services.engine.core import TextPiece
from services.engine.front.models.loaded_model import Model, State
from services.engine.front.models.memory_queue import LoadPreview
from services.engine.front.models.model_settings import ModelSettings, must_reload
from services.engine.front.models.pool import Fleet
from services.engine.front.models.request import Request
from services.shared.errors import EngineUnavailable
from services.shared.store.manifest import Manifest


class Models:
    """See the module."""

    def __init__(self, pool: Fleet, *, max_queued: int) -> None:
        self._pool = pool
        self._max_queued = max_queued

    def place(self, manifest: Manifest, request: Request) -> None:
        """Send a request on its way. EngineUnavailable, EngineBusy, ModelLoadFailed: refused."""
        self._require_accepting()
        model = self._pool.get(manifest) or self._pool.start(manifest)  # 2, 3
        self._pool.submit(model, request, max_queued=self._max_queued)  # 1, 4

    def cancel(self, manifest: Manifest, request: Request) -> None:
        """Stop a request wherever it is. One that ended is fine."""
        model = self._pool.get(manifest)
        if model is not None and not request.has_ended:
            model.cancel(request)
            self._pool.abandon_unwanted(model)

    async def load(self, manifest: Manifest, settings: ModelSettings) -> tuple[bool, Model]:
        """Load it, or change how it is loaded; (whether it was there already, the model)."""
        self._require_accepting()
        self._pool.configure(manifest, settings)
        model = self._pool.get(manifest)
        if model is not None and model.state is State.READY:
            assert model.config is not None
            cells = model.config.context_length
            if not must_reload(model.settings, settings, context_length=cells):
                model.resettle(settings)
                return True, model
            self._pool.stop(model)
        return False, await self.ready(manifest)

    async def ready(self, manifest: Manifest) -> Model:
        """The model, loaded; waits for that. ModelLoadFailed, EngineUnavailable."""
        while True:
            self._require_accepting()
            model = self._pool.get(manifest) or self._pool.start(manifest)
            model.awaiting += 1
            try:
                if model.state is State.STOPPING:
                    await asyncio.shield(model.gone)
                    continue
                await asyncio.shield(model.ready)
                return model
            finally:
                model.awaiting -= 1
                self._pool.abandon_unwanted(model)

    async def unload(self, manifest: Manifest, *, force: bool) -> bool:
        """Stop it, after its requests finished unless forced; False when it was not there."""
        model = self._pool.get(manifest)
        if model is None:
            return False
        error = EngineUnavailable(f"{model.name} was unloaded")
        if model.state in (State.WAITING, State.LOADING):
            model.fail_waiting(error)
            assert model.bring_up is not None
            model.bring_up.cancel()
        self._pool.stop(model)
        if force:
            model.fail_waiting(error)
            model.fail_running(error)
        await asyncio.shield(model.gone)
        return True

    async def tokenize(
        self, manifest: Manifest, pieces: Sequence[TextPiece], *, add_special: bool
    ) -> tuple[int, ...]:
        """Token ids of a text; loads the model when it is not."""
        model = await self.ready(manifest)
        try:
            return await model.tokenize(pieces, add_special=add_special)
        finally:
            self._pool.on_requests_finished(model)

    async def preview_load(self, manifest: Manifest, settings: ModelSettings) -> LoadPreview:
        """What loading it with these settings would do, and why. Does nothing."""
        return await self._pool.preview_load(manifest, settings)

    def _require_accepting(self) -> None:
        if self._pool.is_draining:
            raise EngineUnavailable("the engine is shutting down")
