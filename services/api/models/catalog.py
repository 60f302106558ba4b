"""Which models there are, for the routes: the store off the event loop, downloads in sight."""

from __future__ import annotations

import asyncio
import logging

from redis.exceptions import RedisError

from services.shared.errors import InvalidModelName, ModelLoading, ModelNotFound
from services.shared.model_name import ModelName
from services.shared.pulls.job import PullJob
from services.shared.pulls.job_store import JobStore
from services.shared.store.manifest import Manifest
from services.shared.store.model_store import ModelStore

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 10.0


class Catalog:
    """Stored models by name, and what is known of those on their way."""

    def __init__(self, store: ModelStore, pulls: JobStore) -> None:
        self._store = store
        self._pulls = pulls

    async def models(self) -> list[Manifest]:
        """Every complete model, by name."""
        return await asyncio.to_thread(self._store.list)

    async def resolve(self, text: str) -> Manifest:
        """The model a request names. ModelNotFound, ModelLoading while it is being downloaded."""
        return await asyncio.to_thread(self._resolve, text)

    def _resolve(self, text: str) -> Manifest:
        try:
            return self._store.resolve(text)
        except ModelNotFound:
            if (job := self._loading(text)) is not None:
                raise loading_error(text, job) from None
            raise

    def _loading(self, text: str) -> PullJob | None:
        try:
            return self._pulls.loading_job(str(ModelName.parse(text)))
        except (InvalidModelName, RedisError) as error:
            logger.debug("no word on downloads", extra={"reason": type(error).__name__})
            return None


def loading_error(text: str, job: PullJob) -> ModelLoading:
    """What a request gets for a model that this job fetches."""
    total = job.total_bytes
    progress = round(job.downloaded_bytes / total, 4) if total else None
    said = "is being downloaded" if progress is None else f"is being downloaded ({progress:.0%})"
    return ModelLoading(
        f"the model {text!r} {said}; try again later",
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
