"""The operations on models that the RPCs offer, each for one model by its manifest.

A request for a model:
1. The model is ready                              -> the request goes to its runner.
2. It backs off after crashes                      -> the request is refused, with the retry time.
3. It is not in the pool                           -> its load starts, and the request waits for it.
4. It loads, stops, or must yield its memory       -> the request waits and gets its position.

All requests that wait for a model share one load. The pool (pool.py) does the rest. Event loop
only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from services.engine.core import TextPiece
from services.engine.front.models.client_request import ClientRequest
from services.engine.front.models.loaded_model import LoadedModel
from services.engine.front.models.memory_queue import LoadPreview
from services.engine.front.models.model_state import ModelState
from services.engine.front.models.planning.model_settings import ModelSettings, requires_reload
from services.engine.front.models.pool import ModelPool
from services.engine.messages import commands, reports
from services.shared.errors import EngineBusy, EngineUnavailable
from services.shared.store.manifest import Manifest


class ModelManager:
    """See the module."""

    def __init__(self, pool: ModelPool, *, max_queued: int) -> None:
        self._pool = pool
        self._max_queued = max_queued

    def submit(self, manifest: Manifest, request: ClientRequest) -> None:
        """Run a request or let it wait. EngineUnavailable, EngineBusy, ModelLoadFailed: refused."""
        self._raise_if_draining()
        model = self._pool.get(manifest) or self._pool.start(manifest)  # 2, 3
        self._pool.submit(model, request, max_queued=self._max_queued)  # 1, 4

    def cancel(self, manifest: Manifest, request: ClientRequest) -> None:
        """Stop a request that waits or runs. A request that has ended is fine."""
        model = self._pool.get(manifest)
        if model is not None and not request.has_ended:
            model.cancel(request)
            self._pool.abandon_if_unneeded(model)

    async def load(self, manifest: Manifest, settings: ModelSettings) -> tuple[bool, LoadedModel]:
        """Load a model, or apply settings to a loaded one; (whether it was loaded, the model).

        A model that is loaded, or is being loaded, is loaded again if the settings require it.
        InvalidSettings, ModelLoadFailed, EngineUnavailable.
        """
        self._raise_if_draining()
        self._pool.configure(manifest, settings)
        model = self._pool.get(manifest)
        if model is not None and model.state is not ModelState.STOPPING:
            if requires_reload(model.settings, settings, model.config):
                self._pool.end(model)
            else:
                self._pool.update_settings(model, settings)
                if model.state is ModelState.READY:
                    return True, model
        return False, await self.load_and_wait(manifest)

    async def load_and_wait(self, manifest: Manifest) -> LoadedModel:
        """The model, ready; loads it if it is not. ModelLoadFailed, EngineUnavailable."""
        while True:
            self._raise_if_draining()
            model = self._pool.get(manifest) or self._pool.start(manifest)
            model.waiter_count += 1
            try:
                if model.state is ModelState.STOPPING:
                    await asyncio.shield(model.removed)
                    continue
                # Its load may have been given up a moment ago: then it is removed, never ready.
                ends = (model.ready, model.removed)
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                if model.ready.done():
                    model.ready.result()  # raises the error of a load that failed
                    return model
            finally:
                model.waiter_count -= 1
                self._pool.abandon_if_unneeded(model)

    async def unload(self, manifest: Manifest, *, force: bool) -> bool:
        """Stop a model after its requests have finished; False when it is not in the pool.

        `force` ends the requests with an error instead.
        """
        model = self._pool.get(manifest)
        if model is None:
            return False
        error = EngineUnavailable(f"{model.name} was unloaded")
        if model.state in (ModelState.WAITING, ModelState.LOADING):
            model.fail_waiting(error)
        self._pool.end(model)
        if force:
            model.fail_waiting(error)
            model.fail_running(error)
        await asyncio.shield(model.removed)
        return True

    async def tokenize(
        self, manifest: Manifest, pieces: Sequence[TextPiece], *, add_special: bool, principal: str
    ) -> tuple[int, ...]:
        """The token ids of a text; loads the model if it is not loaded."""
        model = await self._wait_until_accepted(manifest)
        return await model.tokenize(pieces, add_special=add_special, principal=principal)

    async def detokenize(self, manifest: Manifest, tokens: Sequence[int], *, principal: str) -> str:
        """The text of tokens; loads the model if it is not loaded."""
        model = await self._wait_until_accepted(manifest)
        return await model.detokenize(tokens, principal=principal)

    async def embed(self, manifest: Manifest, command: commands.Embed) -> reports.Embedded:
        """The vectors or scores of texts; loads the model if it is not loaded.

        InsufficientMemory, Unavailable: there is no room for its context for embeddings.
        """
        while True:
            model = await self._wait_until_accepted(manifest)
            model.waiter_count += 1
            try:
                await self._pool.reserve_for_embeddings(model)
            finally:
                model.waiter_count -= 1
            if self._pool.accepts_requests(model):
                return await model.embed(command)

    async def preview_load(self, manifest: Manifest, settings: ModelSettings) -> LoadPreview:
        """What loading the model with these settings would do, and why. Changes nothing."""
        return await self._pool.preview_load(manifest, settings)

    async def _wait_until_accepted(self, manifest: Manifest) -> LoadedModel:
        """The model, as soon as it is ready for texts; they wait for other models as requests do.

        EngineBusy: too many wait.
        """
        while True:
            present = self._pool.get(manifest)
            if present is not None and present.waiter_count >= self._max_queued:
                count = present.waiter_count
                raise EngineBusy(f"{count} requests wait for {present.name} already")
            model = await self.load_and_wait(manifest)
            if self._pool.accepts_requests(model):
                return model
            model.waiter_count += 1
            try:
                await model.wait_until_yielded()
            finally:
                model.waiter_count -= 1

    def _raise_if_draining(self) -> None:
        if self._pool.is_draining:
            raise EngineUnavailable("the engine is shutting down")
