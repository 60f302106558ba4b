"""Pausing, cancelling and leaving while a worker downloads, and what the sweep puts right."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from services.puller.build import build_runner
from services.puller.job_runner import Runner
from services.puller.maintenance import Sweep
from services.shared import redis_keys
from services.shared.pulls.job import JobState, PullJob, StopRequest
from tests.conftest import TINY_GGUF
from tests.fakes.registries.faults import ALWAYS, Fault
from tests.fakes.registries.oci import digest_of
from tests.fakes.registries.server import LoopbackServer
from tests.puller.conftest import Desk
from tests.puller.test_processes import wait_for

DIGEST = digest_of(TINY_GGUF.read_bytes())
THERE = 100_000


@pytest.fixture(autouse=True)
def _stalling(cdn: LoopbackServer) -> None:
    cdn.plan.faults = [Fault(on=DIGEST, stall_at=THERE, times=ALWAYS)]


@contextmanager
def downloading(desk: Desk, job: PullJob) -> Iterator[Runner]:
    """A runner in the middle of the job, in a thread."""
    runner = build_runner(desk.settings, desk.client)
    thread = threading.Thread(target=runner.run, args=(job.id, job.ticket))
    thread.start()
    try:
        wait_for(lambda: desk.board.get(job.id).downloaded_bytes >= THERE)
        yield runner
    finally:
        runner.leave()
        thread.join(30)
    assert not thread.is_alive()


@pytest.fixture
def slow_desk(make_desk: Callable[..., Desk], desk: Desk) -> Desk:
    return make_desk(ollama_registry=desk.settings.ollama_registry, pull_timeout_seconds=600.0)


def state_of(desk: Desk, job: PullJob, state: JobState) -> PullJob:
    def looks() -> PullJob | None:
        now = desk.board.get(job.id)
        return now if now.state is state else None

    found: PullJob = wait_for(looks)
    return found


def test_a_paused_download_keeps_its_bytes_and_goes_on(
    slow_desk: Desk, cdn: LoopbackServer
) -> None:
    desk = slow_desk
    job = desk.order("tiny:f16")
    with downloading(desk, job):
        desk.orders.pause(job.id)
        paused = state_of(desk, job, JobState.PAUSED)
    assert paused.downloaded_bytes >= THERE
    assert paused.requested is None
    assert desk.board.loading_job("tiny:f16") == paused
    cdn.plan.faults = []
    cdn.seen.clear()

    desk.tickets.send(desk.orders.resume(job.id))
    desk.work()

    assert desk.board.get(job.id).state is JobState.DONE
    ranges = [seen.range for seen in cdn.seen if DIGEST in seen.path]
    assert ranges == [f"bytes={THERE}-{TINY_GGUF.stat().st_size - 1}"]


def test_a_cancelled_download_leaves_nothing_after_the_sweep(slow_desk: Desk) -> None:
    desk = slow_desk
    job = desk.order("tiny:f16")
    with downloading(desk, job):
        desk.orders.cancel(job.id)
        state_of(desk, job, JobState.CANCELLED)
    assert desk.leftovers() != []

    Sweep(desk.board, desk.tickets, desk.store, max_attempts=3).store()

    assert desk.leftovers() == []
    assert desk.board.loading_job("tiny:f16") is None


def test_a_cancelled_job_does_not_take_the_bytes_of_another(slow_desk: Desk) -> None:
    desk = slow_desk
    job = desk.order("tiny:f16")
    with downloading(desk, job):
        pass  # leaves: the job is queued again, its bytes are needed
    other = desk.order("tiny:f16", format="gguf")
    desk.board.change_if(other.id, {}, {"files": desk.board.get(job.id).files})
    desk.orders.cancel(other.id)

    Sweep(desk.board, desk.tickets, desk.store, max_attempts=3).store()

    assert desk.leftovers() != []


def test_who_lost_the_job_stops_and_leaves_its_state_alone(slow_desk: Desk) -> None:
    desk = slow_desk
    job = desk.order("tiny:f16")
    with downloading(desk, job) as runner:
        desk.client.delete(redis_keys.pull_lease(job.id))
        back = desk.board.put_back(desk.board.get(job.id))
        assert back is not None
        assert desk.board.claim(job.id, back.ticket, "somebody else") is not None
        wait_for(lambda: runner._control is None)
        now = desk.board.get(job.id)

    assert (now.state, now.owner) == (JobState.RUNNING, "somebody else")


def make_sweep(desk: Desk, max_attempts: int = 3) -> Sweep:
    return Sweep(desk.board, desk.tickets, desk.store, max_attempts=max_attempts)


def claimed(desk: Desk, owner: str = "host:1:x") -> PullJob:
    job = desk.order("tiny:f16")
    assert desk.board.claim(job.id, job.ticket, owner) is not None
    desk.client.delete(desk.tickets.queue.key)
    return desk.board.get(job.id)


def test_a_job_whose_lease_ran_out_is_queued_again(desk: Desk) -> None:
    job = claimed(desk)
    make_sweep(desk).jobs()
    assert desk.board.get(job.id).state is JobState.RUNNING

    desk.client.delete(redis_keys.pull_lease(job.id))
    make_sweep(desk).jobs()

    assert desk.board.get(job.id).state is JobState.QUEUED
    assert desk.tickets.waiting() == {job.id}
    assert desk.board.claim(job.id, job.ticket, "late") is None


def test_a_worker_known_to_be_dead_is_not_waited_for(desk: Desk) -> None:
    job = claimed(desk, owner="host:17:x")

    make_sweep(desk).jobs(["host:1:"])
    assert desk.board.get(job.id).state is JobState.RUNNING
    make_sweep(desk).jobs(["host:17:"])
    assert desk.board.get(job.id).state is JobState.QUEUED


def test_what_was_wished_of_a_dead_worker_is_heard_by_the_next(desk: Desk) -> None:
    job = claimed(desk, owner="host:17:x")
    desk.orders.pause(job.id)

    make_sweep(desk).jobs(["host:17:"])

    assert desk.board.get(job.id).requested is StopRequest.PAUSE


def test_a_poison_job_fails_after_its_attempts(desk: Desk) -> None:
    job = claimed(desk, owner="host:17:x")

    make_sweep(desk, max_attempts=1).jobs(["host:17:"])

    last = desk.board.get(job.id)
    assert (last.state, last.error) == (
        JobState.FAILED,
        "the worker died 1 times while working on this job",
    )


def test_a_lost_ticket_is_sent_again_at_the_second_look(desk: Desk) -> None:
    job = desk.order("tiny:f16")
    desk.client.delete(desk.tickets.queue.key)
    sweep = make_sweep(desk)

    sweep.jobs()
    assert desk.tickets.waiting() == set()
    sweep.jobs()
    assert desk.tickets.waiting() == {job.id}
    sweep.jobs()
    assert desk.tickets.queue.job_ids == [f"{job.id}-1"]


def test_a_ticket_used_twice_runs_once(desk: Desk) -> None:
    job = desk.order("tiny:f16")

    assert desk.board.claim(job.id, job.ticket, "one") is not None
    assert desk.board.claim(job.id, job.ticket, "two") is None
