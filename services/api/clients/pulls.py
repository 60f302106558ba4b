"""The api's way to pull jobs: PullBoard and RQ are blocking, so every call goes through a thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TypeVar

import redis

from services.shared.errors import Unavailable
from services.shared.pulls.commands import JobCommands
from services.shared.pulls.job import JobState, PullJob
from services.shared.pulls.job_queue import JobQueue
from services.shared.pulls.job_store import JobStore, new_job

POLL_SECONDS = 0.4

T = TypeVar("T")


class PullQueue:
    """Ask for pulls and look after them. Unavailable while Redis does not answer."""

    def __init__(self, client: redis.Redis) -> None:
        self._board = JobStore(client)
        self._orders = JobCommands(client, self._board)
        self._tickets = JobQueue(client)

    async def start(
        self,
        model: str,
        *,
        priority: int,
        format: str | None,  # noqa: A002  the field's name on the wire
        sha256: str | None,
        idempotency: str | None,
    ) -> tuple[PullJob, bool]:
        """The job for a canonical model name, and whether it is new."""

        def create() -> tuple[PullJob, bool]:
            order = new_job(model, priority=priority, format=format, sha256=sha256)
            job, is_new = self._orders.create(order, idempotency=idempotency)
            if is_new:
                self._tickets.send(job)
            return job, is_new

        return await _in_thread(create)

    async def get(self, job_id: str) -> PullJob:
        """One job; JobNotFound."""
        return await _in_thread(lambda: self._board.get(job_id))

    async def list(
        self, *, states: Iterable[JobState], model: str | None, limit: int
    ) -> list[PullJob]:
        """Jobs, newest first."""
        return await _in_thread(lambda: self._board.find(states=states, model=model, limit=limit))

    async def pause(self, job_id: str) -> PullJob:
        """Stop it and keep what is there."""
        return await _in_thread(lambda: self._orders.pause(job_id))

    async def resume(self, job_id: str) -> PullJob:
        """Go on with a paused one."""
        return await _in_thread(lambda: self._queued(self._orders.resume(job_id)))

    async def cancel(self, job_id: str) -> PullJob:
        """End it without a model."""
        return await _in_thread(lambda: self._orders.cancel(job_id))

    async def retry(self, job_id: str) -> PullJob:
        """Queue a failed or cancelled one again."""
        return await _in_thread(lambda: self._queued(self._orders.retry(job_id)))

    async def set_priority(self, job_id: str, priority: int) -> PullJob:
        """Higher goes first."""

        def change() -> PullJob:
            job = self._orders.set_priority(job_id, priority)
            self._tickets.arrange(job)
            return job

        return await _in_thread(change)

    async def forget(self, job_id: str) -> None:
        """Remove an ended one from the list."""
        await _in_thread(lambda: self._orders.forget(job_id))

    async def watch(self, job_id: str) -> AsyncIterator[PullJob | None]:
        """The job each time it changed, None as a sign of life in between, until it has ended."""
        last: PullJob | None = None
        while last is None or not last.state.has_ended:
            job = await self.get(job_id)
            yield job if job != last else None
            last = job
            if not job.state.has_ended:
                await asyncio.sleep(POLL_SECONDS)

    def _queued(self, job: PullJob) -> PullJob:
        if job.state is JobState.QUEUED:
            self._tickets.send(job)
        return job


async def _in_thread(action: Callable[[], T]) -> T:
    try:
        return await asyncio.to_thread(action)
    except redis.RedisError as error:
        raise Unavailable("pull jobs cannot be reached right now") from error
