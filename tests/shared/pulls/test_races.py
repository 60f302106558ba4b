"""Commands that meet a worker or another client in the same moment."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from services.shared.errors import Conflict
from services.shared.pulls.commands import JobCommands
from services.shared.pulls.job import JobState, PullJob
from services.shared.pulls.job_store import JobStore, new_job
from services.shared.redis import redis_keys


class RacingStore(JobStore):
    """Runs an action once, right before a change that expects a running job."""

    before_running: Callable[[], object] | None = None

    def change_if(self, job_id: str, expect: Any, fields: Any, **more: Any) -> bool:
        if expect.get("state") is JobState.RUNNING and self.before_running is not None:
            action, self.before_running = self.before_running, None
            action()
        return super().change_if(job_id, expect, fields, **more)


@pytest.fixture
def store(redis_url: str) -> Iterator[RacingStore]:
    with redis.Redis.from_url(redis_url) as client:
        yield RacingStore(client)


@pytest.fixture
def commands(store: RacingStore) -> JobCommands:
    return JobCommands(store._redis, store)


@pytest.fixture
def running(store: RacingStore, commands: JobCommands) -> PullJob:
    job, _ = commands.create(new_job("tiny:latest"))
    claimed = store.claim(job.id, job.ticket, "worker")
    assert claimed is not None
    return claimed


@pytest.mark.parametrize(
    ("command", "state"), [("cancel", JobState.CANCELLED), ("pause", JobState.PAUSED)]
)
def test_a_job_that_its_worker_puts_back_in_that_moment_is_stopped(
    store: RacingStore, commands: JobCommands, running: PullJob, command: str, state: JobState
) -> None:
    plain = JobStore(store._redis)
    store.before_running = lambda: plain.put_back(running, "worker")

    assert getattr(commands, command)(running.id).state is state


class RereadStore(JobStore):
    """Runs an action once, right after a job was read."""

    after_get: Callable[[], object] | None = None

    def get(self, job_id: str) -> PullJob:
        job = super().get(job_id)
        if self.after_get is not None:
            action, self.after_get = self.after_get, None
            action()
        return job


def test_a_job_that_is_retried_while_it_is_forgotten_is_not_half_there(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        store = RereadStore(client)
        commands = JobCommands(client, store)
        job, _ = commands.create(new_job("tiny:latest"))
        commands.cancel(job.id)
        store.after_get = lambda: JobCommands(client, JobStore(client)).retry(job.id)

        with contextlib.suppress(Conflict):
            commands.forget(job.id)

        in_flight = client.smembers(redis_keys.PULLS_ACTIVE)
        assert in_flight == {j.id.encode() for j in store.list_in_flight()}
