"""Commit memory to a context for embeddings before a loaded model creates it.

Models that are made for embeddings or ranking have that context from their load on, and it is in
the plan of the load. Any other model creates it for its first text. It has cells of its own and a
row of the vocabulary for each token, so it can be as large as the model:

1. It fits beside the loaded models           -> its bytes are committed, the texts go to the runner
2. It fits after idle models leave            -> they are evicted
3. It fits after busy models leave, or models
   wait for memory already                    -> the texts are refused for now
4. It never fits                              -> they are refused
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from weakref import WeakKeyDictionary

from services.engine.front.models.loaded_model import LoadedModel
from services.engine.front.models.memory_queue import MemoryQueue
from services.engine.front.models.model_state import ModelState
from services.engine.front.models.planning.load_planner import LoadPlanner
from services.engine.memory.estimate import add_embeddings
from services.engine.memory.plan import Action
from services.shared.errors import InsufficientMemory, Unavailable

_MAX_EVICTIONS = 2  # in a row: meanwhile another model may have taken what became free
_STOP_SECONDS = 30.0  # for those that leave to end, and their memory to be free
_RETRY_AFTER_SECONDS = 10.0


class EmbeddingMemory:
    """See the module. Event loop only."""

    def __init__(
        self,
        planner: LoadPlanner,
        memory_queue: MemoryQueue,
        *,
        list_models: Callable[[], Iterable[LoadedModel]],
        evict: Callable[[LoadedModel], None],
    ) -> None:
        self._planner = planner
        self._memory_queue = memory_queue
        self._list_models = list_models
        self._evict = evict
        # Held while a model's memory is planned: its other texts wait for the same plan.
        self._locks: WeakKeyDictionary[LoadedModel, asyncio.Lock] = WeakKeyDictionary()

    async def reserve(self, model: LoadedModel) -> None:
        """Commit the memory to a ready model, unless it has it. It may have left when this returns.

        InsufficientMemory: case 4. Unavailable: case 3. ModelLoadFailed: a dry run failed.
        """
        async with self._locks.setdefault(model, asyncio.Lock()):
            if model.config is None or model.footprint is None or model.footprint.embedding_bytes:
                return
            sizes = await self._planner.plan_embeddings(
                model.manifest,
                model.config,
                make_room=lambda dry_run: self._make_room(model, dry_run.need),
            )
            await self._make_room(model, sizes)
            if model.state is ModelState.READY:
                model.footprint = add_embeddings(model.footprint, sizes)

    async def _make_room(self, model: LoadedModel, sizes: Mapping[str, int]) -> None:
        """Return when these bytes by pool may be committed to the model, or when it leaves."""
        for _ in range(_MAX_EVICTIONS + 1):
            if model.state is not ModelState.READY:
                return
            decision = self._memory_queue.plan_growth(model, sizes)
            message = f"the context of {model.name} for embeddings {decision.explanation}"
            if decision.action is Action.IMPOSSIBLE:
                raise InsufficientMemory(message)
            if self._memory_queue.has_waiting:
                message = (
                    f"the context of {model.name} for embeddings: other models wait for memory"
                )
                break
            if decision.action is Action.LOAD:
                return
            leaving = [other for other in self._list_models() if other.key in decision.leaving]
            if decision.action is Action.WAIT and not _are_stopping(leaving):
                break
            for other in leaving:
                self._evict(other)
            await asyncio.wait([other.removed for other in leaving], timeout=_STOP_SECONDS)
        raise Unavailable(message, retry_after_seconds=_RETRY_AFTER_SECONDS)


def _are_stopping(models: Sequence[LoadedModel]) -> bool:
    return bool(models) and all(model.state is ModelState.STOPPING for model in models)
