"""The api's client for pull jobs. Redis and RQ are called in a thread, because they block."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TypeVar, cast

import redis

from services.shared import redis_keys
from services.shared.errors import Conflict, JobNotFound, Unavailable
from services.shared.pulls.commands import JobCommands
from services.shared.pulls.job import JobState, PullJob
from services.shared.pulls.job_queue import JobQueue
from services.shared.pulls.job_store import JobStore, new_job
from services.shared.pulls.partials import remove_partials
from services.shared.store.model_store import ModelStore

POLL_SECONDS = 0.4
MAX_DELETED = 10_000

logger = logging.getLogger(__name__)

T = TypeVar("T")


class PullClient:
    """Starts, reads and changes pull jobs. Unavailable while Redis does not answer."""

    def __init__(self, client: redis.Redis, models: ModelStore) -> None:
        self._redis = client
        self._models = models
        self._store = JobStore(client)
        self._commands = JobCommands(client, self._store)
        self._queue = JobQueue(client)
        self._is_stopping = False

    def stop_watches(self) -> None:
        """Let every watch end with Unavailable within a poll, because the service stops."""
        self._is_stopping = True

    async def start(
        self,
        model: str,
        *,
        priority: int,
        format: str | None,  # noqa: A002  the field's name in the API
        sha256: str | None,
        idempotency: str | None,
        address: str | None = None,
    ) -> tuple[PullJob, bool]:
        """The job for a canonical model name, and whether it is new.

        `address` is that of a plain download whose name lacks its query.
        """

        def create() -> tuple[PullJob, bool]:
            draft = new_job(model, priority=priority, format=format, sha256=sha256, address=address)
            job, is_new = self._commands.create(draft, idempotency=idempotency)
            if is_new:
                self._queue.send(job)
            return job, is_new

        return await _run_in_thread(create)

    async def get(self, job_id: str) -> PullJob:
        """One job; JobNotFound."""
        return await _run_in_thread(lambda: self._store.get(job_id))

    async def list(
        self, *, states: Iterable[JobState], model: str | None, limit: int
    ) -> list[PullJob]:
        """Jobs, newest first; empty `states` match every state."""
        return await _run_in_thread(
            lambda: self._store.find(states=states, model=model, limit=limit)
        )

    async def pause(self, job_id: str) -> PullJob:
        """Stop a job and keep the bytes downloaded so far."""
        return await _run_in_thread(lambda: self._commands.pause(job_id))

    async def resume(self, job_id: str) -> PullJob:
        """Continue a paused job."""
        return await _run_in_thread(lambda: self._enqueue(self._commands.resume(job_id)))

    async def cancel(self, job_id: str) -> PullJob:
        """End a job without storing a model, and remove its bytes."""

        def cancel() -> PullJob:
            job = self._commands.cancel(job_id)
            if job.state is JobState.CANCELLED:  # else its worker removes them
                self._remove_partials(job)
            return job

        return await _run_in_thread(cancel)

    async def retry(self, job_id: str) -> PullJob:
        """Queue a failed or cancelled job again."""
        return await _run_in_thread(lambda: self._enqueue(self._commands.retry(job_id)))

    async def set_priority(self, job_id: str, priority: int) -> PullJob:
        """Change the priority of a job; higher priorities run first."""

        def change() -> PullJob:
            job = self._commands.set_priority(job_id, priority)
            self._queue.reorder(job)
            return job

        return await _run_in_thread(change)

    async def delete(self, job_id: str) -> int:
        """Remove an ended job from the list, and its bytes; the bytes that this frees."""
        return await _run_in_thread(lambda: self._delete(self._store.get(job_id)))

    async def delete_ended(self, states: Iterable[JobState]) -> tuple[int, int]:
        """Remove all jobs that ended in these states, and their bytes; (jobs, freed bytes)."""

        def delete() -> tuple[int, int]:
            deleted, freed_bytes = 0, 0
            for job in self._store.find(states=states, limit=MAX_DELETED):
                with contextlib.suppress(Conflict, JobNotFound):  # retried or deleted meanwhile
                    freed_bytes += self._delete(job)
                    deleted += 1
            return deleted, freed_bytes

        return await _run_in_thread(delete)

    async def watch(self, job_id: str) -> AsyncIterator[PullJob | None]:
        """The job whenever it changed, until it has ended; None after a poll without a change.

        Unavailable when the service stops.
        """
        last: PullJob | None = None
        while last is None or not last.state.has_ended:
            job = await self.get(job_id)
            yield job if job != last else None
            last = job
            if not job.state.has_ended:
                await asyncio.sleep(POLL_SECONDS)
                if self._is_stopping:
                    raise Unavailable("the service is stopping; watch the job again")

    async def count_on_demand(self, principal: str) -> int:
        """Count a download that a request starts; how many this principal started in an hour."""

        def count() -> int:
            key = redis_keys.pulls_on_demand(principal)
            with self._redis.pipeline() as pipe:
                pipe.set(key, 0, ex=redis_keys.PULLS_ON_DEMAND_SECONDS, nx=True)
                pipe.incr(key)
                return cast("int", pipe.execute()[1])

        return await _run_in_thread(count)

    def _delete(self, job: PullJob) -> int:
        self._commands.forget(job.id)
        return self._remove_partials(job)

    def _remove_partials(self, job: PullJob) -> int:
        try:
            return remove_partials(self._models, self._store, job)
        except OSError:  # the garbage collection removes them after a week
            logger.warning("bytes of a download were not removed", exc_info=True)
            return 0

    def _enqueue(self, job: PullJob) -> PullJob:
        if job.state is JobState.QUEUED:
            self._queue.send(job)
        return job


async def _run_in_thread(action: Callable[[], T]) -> T:
    try:
        return await asyncio.to_thread(action)
    except redis.RedisError as error:
        raise Unavailable("pull jobs cannot be reached right now") from error
