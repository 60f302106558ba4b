"""The stored models, for the routes. The store is read in threads of its own."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from services.api.clients.blocking_calls import BlockingCalls
from services.api.clients.engine_calls import EngineCalls
from services.api.clients.pulls import PullClient
from services.shared.errors import (
    InvalidModelName,
    ModelLoading,
    ModelNotFound,
    SpindllError,
    Unavailable,
)
from services.shared.model_name import ModelName
from services.shared.pulls.job import PullJob
from services.shared.store.manifest import Manifest
from services.shared.store.model_store import DeleteResult, ModelStore

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 10.0
_THREADS = 4
_MAX_CALLS = 1024  # every chat makes one; the store answers in less than a millisecond


class Catalog:
    """Stored models by name, and the progress of those that are being downloaded."""

    def __init__(self, store: ModelStore, pulls: PullClient, engine: EngineCalls) -> None:
        self._store = store
        self._pulls = pulls
        self._engine = engine
        self._calls = BlockingCalls("store", threads=_THREADS, max_calls=_MAX_CALLS)

    async def list(self) -> list[Manifest]:
        """Every complete model, sorted by name."""
        return await self._calls.run(self._store.list)

    async def resolve(self, text: str) -> Manifest:
        """The model that a request names; ModelNotFound, ModelLoading while it downloads."""
        try:
            return await self._calls.run(lambda: self._store.resolve(text))
        except ModelNotFound:
            if (job := await self._find_job(text)) is not None:
                raise build_loading_error(text, job) from None
            raise

    async def delete(self, text: str) -> DeleteResult:
        """Delete the model that a request names; ModelNotFound, Conflict when several match."""
        return await self._calls.run(lambda: self._store.delete(text))

    async def copy(self, text: str, new_name: str) -> Manifest:
        """Give the model that a request names another name too; ModelNotFound, Conflict."""
        return await self._calls.run(lambda: self._store.copy(text, new_name))

    async def find_context_lengths(self, manifests: Iterable[Manifest]) -> dict[str, int | None]:
        """How many tokens a request to each of these models may have, by name.

        While the engine does not answer, what they were trained for.
        """
        found = {m.name: m.description.context_length for m in manifests}
        try:
            usable = await self._engine.find_context_lengths(found)
        except SpindllError as error:
            logger.debug("could not look up contexts", extra={"reason": type(error).__name__})
            return found
        return {**found, **usable}

    async def _find_job(self, text: str) -> PullJob | None:
        try:
            return await self._pulls.find_loading_job(str(ModelName.parse(text)))
        except (InvalidModelName, Unavailable) as error:
            logger.debug("could not look up downloads", extra={"reason": type(error).__name__})
            return None


def build_loading_error(text: str, job: PullJob) -> ModelLoading:
    """The error for a request whose model this job downloads."""
    total = job.total_bytes
    progress = round(job.downloaded_bytes / total, 4) if total else None
    percentage = "" if progress is None else f" ({progress:.0%})"
    return ModelLoading(
        f"the model {text!r} is being downloaded{percentage}; try again later",
        param="model",
        retry_after_seconds=min(60.0, max(2.0, job.eta_seconds or _RETRY_SECONDS)),
        details={
            "loading": {
                "job": job.id,
                "state": job.state.value,
                "downloaded_bytes": job.downloaded_bytes,
                "total_bytes": total,
                "progress": progress,
                "eta_seconds": job.eta_seconds,
            }
        },
    )
