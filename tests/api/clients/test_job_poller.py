"""All watchers of pull jobs share one poll."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from services.api.clients import job_poller
from services.api.clients.job_poller import JobPoller
from services.shared.errors import InternalError, SpindllError, Unavailable
from services.shared.pulls.job import JobState, PullJob


def make_job(job_id: str) -> PullJob:
    return PullJob(id=job_id, model="m", state=JobState.RUNNING, created_at=1.0)


class Reader:
    """Records which jobs were read."""

    def __init__(self) -> None:
        self.reads: list[list[str]] = []
        self.error: Exception | None = None

    async def __call__(self, job_ids: Sequence[str]) -> dict[str, PullJob]:
        self.reads.append(sorted(job_ids))
        if self.error is not None:
            raise self.error
        return {job_id: make_job(job_id) for job_id in job_ids}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_poller, "POLL_SECONDS", 0.01)


async def test_many_watchers_cost_one_read_for_each_poll() -> None:
    reader = Reader()
    poller = JobPoller(reader)

    async def watch(job_id: str) -> None:
        with poller.watch(job_id) as poll:
            for _ in range(3):
                assert job_id in await poll()

    await asyncio.gather(*(watch(f"job{number % 2}") for number in range(100)))
    assert reader.reads == 3 * [["job0", "job1"]]


@pytest.mark.parametrize(
    ("error", "seen"),
    [(Unavailable("no Redis"), Unavailable), (RuntimeError("bug"), InternalError)],
    ids=["redis", "bug"],
)
async def test_an_error_reaches_every_watcher(error: Exception, seen: type[SpindllError]) -> None:
    reader = Reader()
    reader.error = error
    poller = JobPoller(reader)

    async def watch() -> None:
        with poller.watch("job") as poll:
            await poll()

    ended = await asyncio.gather(watch(), watch(), return_exceptions=True)
    assert [type(each) for each in ended] == [seen, seen]


async def test_polling_ends_with_the_last_watcher_and_starts_again() -> None:
    reader = Reader()
    poller = JobPoller(reader)
    for _ in range(2):
        with poller.watch("job") as poll:
            await poll()
        assert poller._task is not None
        await poller._task

    assert reader.reads == [["job"], ["job"]]
