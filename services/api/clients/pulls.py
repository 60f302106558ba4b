"""The api's client for pull jobs. Redis and RQ are called in threads of their own: they block."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import TypeVar, cast

import redis

from services.api.clients.blocking_calls import BlockingCalls
from services.api.clients.job_poller import JobPoller
from services.shared.errors import Conflict, JobNotFound, Unavailable
from services.shared.pulls.commands import JobCommands
from services.shared.pulls.job import JobState, PullJob
from services.shared.pulls.job_queue import JobQueue
from services.shared.pulls.job_store import JobStore, new_job
from services.shared.pulls.partials import remove_partials
from services.shared.redis import redis_keys
from services.shared.store.model_store import ModelStore

MAX_DELETED = 10_000
_THREADS = 4
_MAX_CALLS = 64

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
        self._calls = BlockingCalls("pulls", threads=_THREADS, max_calls=_MAX_CALLS)
        self._poller = JobPoller(self._get_many)
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

        return await self._run(create)

    async def get(self, job_id: str) -> PullJob:
        """One job; JobNotFound."""
        return await self._run(lambda: self._store.get(job_id))

    async def list(
        self, *, states: Iterable[JobState], model: str | None, limit: int
    ) -> list[PullJob]:
        """Jobs, newest first; empty `states` match every state."""
        return await self._run(lambda: self._store.find(states=states, model=model, limit=limit))

    async def pause(self, job_id: str) -> PullJob:
        """Stop a job and keep the bytes downloaded so far."""
        return await self._run(lambda: self._commands.pause(job_id))

    async def resume(self, job_id: str) -> PullJob:
        """Continue a paused job."""
        return await self._run(lambda: self._enqueue(self._commands.resume(job_id)))

    async def cancel(self, job_id: str) -> PullJob:
        """End a job without storing a model, and remove its bytes."""

        def cancel() -> PullJob:
            job = self._commands.cancel(job_id)
            if job.state is JobState.CANCELLED:  # else its worker removes them
                self._remove_partials(job)
            return job

        return await self._run(cancel)

    async def retry(self, job_id: str) -> PullJob:
        """Queue a failed or cancelled job again."""
        return await self._run(lambda: self._enqueue(self._commands.retry(job_id)))

    async def set_priority(self, job_id: str, priority: int) -> PullJob:
        """Change the priority of a job; higher priorities run first."""

        def change() -> PullJob:
            job = self._commands.set_priority(job_id, priority)
            self._queue.reorder(job)
            return job

        return await self._run(change)

    async def delete(self, job_id: str) -> int:
        """Remove an ended job from the list, and its bytes; the bytes that this frees."""
        return await self._run(lambda: self._delete(self._store.get(job_id)))

    async def delete_ended(self, states: Iterable[JobState]) -> tuple[int, int]:
        """Remove all jobs that ended in these states, and their bytes; (jobs, freed bytes)."""

        def delete() -> tuple[int, int]:
            deleted, freed_bytes = 0, 0
            for job in self._store.find(states=states, limit=MAX_DELETED):
                with contextlib.suppress(Conflict, JobNotFound):  # retried or deleted meanwhile
                    freed_bytes += self._delete(job)
                    deleted += 1
            return deleted, freed_bytes

        return await self._run(delete)

    async def find_loading_job(self, model: str) -> PullJob | None:
        """The job that downloads a model (canonical name)."""
        return await self._run(lambda: self._store.find_loading_job(model))

    async def watch(self, job_id: str) -> AsyncIterator[PullJob | None]:
        """The job whenever it changed, until it has ended; None after a poll without a change.

        JobNotFound; Unavailable when the service stops. All watchers of a worker share one poll.
        """
        job = await self.get(job_id)
        yield job
        with self._poller.watch(job_id) as poll:
            while not job.state.has_ended:
                found = (await poll()).get(job_id)
                if self._is_stopping:
                    raise Unavailable("the service is stopping; watch the job again")
                if found is None:
                    raise JobNotFound(f"no pull job {job_id!r}")
                yield found if found != job else None
                job = found

    async def count_on_demand(self, principal: str) -> int:
        """Count a download that a request starts; how many this principal started in an hour."""

        def count() -> int:
            key = redis_keys.pulls_on_demand(principal)
            with self._redis.pipeline() as pipe:
                pipe.set(key, 0, ex=redis_keys.PULLS_ON_DEMAND_SECONDS, nx=True)
                pipe.incr(key)
                return cast("int", pipe.execute()[1])

        return await self._run(count)

    async def _run(self, action: Callable[[], T]) -> T:
        try:
            return await self._calls.run(action)
        except redis.RedisError as error:
            raise Unavailable("pull jobs cannot be reached right now") from error

    async def _get_many(self, job_ids: Sequence[str]) -> Mapping[str, PullJob]:
        jobs = await self._run(lambda: self._store.get_many(job_ids))
        return {job.id: job for job in jobs}

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
