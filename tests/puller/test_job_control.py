"""Pause, cancel and shutdown during a download, and the repairs of the maintenance."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from services.puller.build import build_job_runner
from services.puller.job_runner import JobRunner
from services.puller.maintenance import Maintenance
from services.shared.pulls.job import JobState, PullJob, StopRequest
from services.shared.pulls.partials import remove_partials
from services.shared.redis import redis_keys
from tests.conftest import TINY_GGUF
from tests.fakes.registries.faults import ALWAYS, Fault
from tests.fakes.registries.oci import sha256_digest
from tests.fakes.registries.server import LoopbackServer
from tests.puller.conftest import PullTestbed
from tests.puller.processes import wait_for

DIGEST = sha256_digest(TINY_GGUF.read_bytes())
STALL_AT = 100_000


@pytest.fixture(autouse=True)
def _stalling(cdn: LoopbackServer) -> None:
    cdn.plan.faults = [Fault(path_part=DIGEST, stall_at=STALL_AT, times=ALWAYS)]


@contextmanager
def downloading(testbed: PullTestbed, job: PullJob) -> Iterator[JobRunner]:
    """A job runner in a thread that has downloaded a part of the job's model."""
    runner = build_job_runner(testbed.settings, testbed.client)
    thread = threading.Thread(target=runner.run, args=(job.id, job.ticket))
    thread.start()
    try:
        wait_for(lambda: testbed.job_store.get(job.id).downloaded_bytes >= STALL_AT)
        yield runner
    finally:
        runner.request_stop()
        thread.join(30)
    assert not thread.is_alive()


@pytest.fixture
def slow_testbed(make_testbed: Callable[..., PullTestbed], testbed: PullTestbed) -> PullTestbed:
    return make_testbed(
        ollama_registry=testbed.settings.ollama_registry, pull_timeout_seconds=600.0
    )


def wait_for_state(testbed: PullTestbed, job: PullJob, state: JobState) -> PullJob:
    def job_in_state() -> PullJob | None:
        now = testbed.job_store.get(job.id)
        return now if now.state is state else None

    found: PullJob = wait_for(job_in_state)
    return found


def test_a_job_that_is_deleted_while_its_worker_cancels_it_leaves_no_bytes(
    slow_testbed: PullTestbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    testbed = slow_testbed
    job = testbed.submit("tiny:f16")
    with downloading(testbed, job) as runner:
        end = runner._job_store.end

        def end_and_forget(ended: PullJob, *arguments: Any, **fields: Any) -> bool:
            is_ended = end(ended, *arguments, **fields)
            testbed.commands.forget(ended.id)
            return is_ended

        monkeypatch.setattr(runner._job_store, "end", end_and_forget)
        testbed.commands.cancel(job.id)
        wait_for(lambda: not testbed.leftover_files(), seconds=20)


def test_a_paused_download_keeps_its_bytes_and_continues(
    slow_testbed: PullTestbed, cdn: LoopbackServer
) -> None:
    testbed = slow_testbed
    job = testbed.submit("tiny:f16")
    with downloading(testbed, job):
        testbed.commands.pause(job.id)
        paused = wait_for_state(testbed, job, JobState.PAUSED)
    assert paused.downloaded_bytes >= STALL_AT
    assert paused.requested is None
    assert testbed.job_store.find_loading_job("tiny:f16") == paused
    cdn.plan.faults = []
    cdn.requests.clear()

    testbed.job_queue.send(testbed.commands.resume(job.id))
    testbed.run_queue()

    assert testbed.job_store.get(job.id).state is JobState.DONE
    ranges = [request.range for request in cdn.requests if DIGEST in request.path]
    assert ranges == [f"bytes={STALL_AT}-{TINY_GGUF.stat().st_size - 1}"]


def test_cancelling_a_running_download_removes_its_bytes(slow_testbed: PullTestbed) -> None:
    testbed = slow_testbed
    job = testbed.submit("tiny:f16")
    with downloading(testbed, job):
        testbed.commands.cancel(job.id)
        wait_for_state(testbed, job, JobState.CANCELLED)
        wait_for(lambda: not testbed.leftover_files())

    assert testbed.job_store.find_loading_job("tiny:f16") is None


def test_a_job_cancelled_earlier_does_not_take_the_bytes_of_a_later_one(
    slow_testbed: PullTestbed,
) -> None:
    testbed = slow_testbed
    cancelled = testbed.submit("tiny:f16")
    with downloading(testbed, cancelled):
        testbed.commands.cancel(cancelled.id)
        wait_for_state(testbed, cancelled, JobState.CANCELLED)
    failed = testbed.submit("tiny:f16")
    with downloading(testbed, failed):
        pass
    testbed.job_store.end(failed, JobState.FAILED, expect={"state": JobState.QUEUED})

    make_maintenance(testbed).sweep_store()

    assert testbed.leftover_files() != []
    remove_partials(testbed.store, testbed.job_store, testbed.job_store.get(failed.id))
    assert testbed.leftover_files() == []


def test_bytes_that_another_job_needs_are_kept(slow_testbed: PullTestbed) -> None:
    testbed = slow_testbed
    job = testbed.submit("tiny:f16")
    with downloading(testbed, job):
        pass  # the runner stops: the job is queued again and needs its bytes
    other = testbed.submit("tiny:f16", format="gguf")
    testbed.job_store.change_if(other.id, {}, {"files": testbed.job_store.get(job.id).files})
    remove_partials(testbed.store, testbed.job_store, testbed.commands.cancel(other.id))

    assert testbed.leftover_files() != []


def test_a_runner_that_lost_its_job_stops_and_does_not_change_its_state(
    slow_testbed: PullTestbed,
) -> None:
    testbed = slow_testbed
    job = testbed.submit("tiny:f16")
    with downloading(testbed, job) as runner:
        testbed.client.delete(redis_keys.pull_lease(job.id))
        queued = testbed.job_store.put_back(testbed.job_store.get(job.id))
        assert queued is not None
        assert testbed.job_store.claim(job.id, queued.ticket, "another worker") is not None
        wait_for(lambda: runner._control is None)
        now = testbed.job_store.get(job.id)

    assert (now.state, now.owner) == (JobState.RUNNING, "another worker")


def make_maintenance(testbed: PullTestbed, max_attempts: int = 3) -> Maintenance:
    return Maintenance(
        testbed.job_store, testbed.job_queue, testbed.store, max_attempts=max_attempts
    )


def claimed(testbed: PullTestbed, owner: str = "host:1:x") -> PullJob:
    job = testbed.submit("tiny:f16")
    assert testbed.job_store.claim(job.id, job.ticket, owner) is not None
    testbed.client.delete(testbed.job_queue.queue.key)
    return testbed.job_store.get(job.id)


def test_a_job_with_an_expired_lease_is_queued_again(testbed: PullTestbed) -> None:
    job = claimed(testbed)
    make_maintenance(testbed).requeue_jobs()
    assert testbed.job_store.get(job.id).state is JobState.RUNNING

    testbed.client.delete(redis_keys.pull_lease(job.id))
    make_maintenance(testbed).requeue_jobs()

    assert testbed.job_store.get(job.id).state is JobState.QUEUED
    assert testbed.job_queue.list_waiting() == {job.id}
    assert testbed.job_store.claim(job.id, job.ticket, "late") is None


def test_a_job_of_a_worker_known_to_be_dead_is_queued_before_its_lease_expires(
    testbed: PullTestbed,
) -> None:
    job = claimed(testbed, owner="host:17:x")

    make_maintenance(testbed).requeue_jobs(["host:1:"])
    assert testbed.job_store.get(job.id).state is JobState.RUNNING
    make_maintenance(testbed).requeue_jobs(["host:17:"])
    assert testbed.job_store.get(job.id).state is JobState.QUEUED


def test_a_stop_request_to_a_dead_worker_is_kept_for_the_next(testbed: PullTestbed) -> None:
    job = claimed(testbed, owner="host:17:x")
    testbed.commands.pause(job.id)

    make_maintenance(testbed).requeue_jobs(["host:17:"])

    assert testbed.job_store.get(job.id).requested is StopRequest.PAUSE


def test_a_job_that_kills_its_workers_fails_after_max_attempts(testbed: PullTestbed) -> None:
    job = claimed(testbed, owner="host:17:x")

    make_maintenance(testbed, max_attempts=1).requeue_jobs(["host:17:"])

    last = testbed.job_store.get(job.id)
    assert (last.state, last.error) == (
        JobState.FAILED,
        "the worker died 1 times while working on this job",
    )


def test_a_lost_ticket_is_sent_again_by_the_second_run(testbed: PullTestbed) -> None:
    job = testbed.submit("tiny:f16")
    testbed.client.delete(testbed.job_queue.queue.key)
    maintenance = make_maintenance(testbed)

    maintenance.requeue_jobs()
    assert testbed.job_queue.list_waiting() == set()
    maintenance.requeue_jobs()
    assert testbed.job_queue.list_waiting() == {job.id}
    maintenance.requeue_jobs()
    assert testbed.job_queue.queue.job_ids == [f"{job.id}-1"]


def test_a_ticket_can_be_claimed_only_once(testbed: PullTestbed) -> None:
    job = testbed.submit("tiny:f16")

    assert testbed.job_store.claim(job.id, job.ticket, "one") is not None
    assert testbed.job_store.claim(job.id, job.ticket, "two") is None


def test_an_attempt_with_progress_is_the_first_of_a_new_count(slow_testbed: PullTestbed) -> None:
    testbed = slow_testbed
    job = testbed.submit("tiny:f16")
    assert testbed.job_store.change_if(job.id, {}, {"attempts": 2})
    with downloading(testbed, job):
        wait_for(lambda: testbed.job_store.get(job.id).attempts == 1)


def test_a_job_whose_state_is_lost_does_not_block_its_model(testbed: PullTestbed) -> None:
    lost = testbed.submit("tiny:f16")
    testbed.client.delete(redis_keys.pull(lost.id))

    new = testbed.submit("tiny:f16")
    assert new.id != lost.id
    testbed.commands.cancel(new.id)
    other = testbed.submit("tiny:f16")
    testbed.client.delete(redis_keys.pull(other.id))
    assert testbed.commands.retry(new.id).state is JobState.QUEUED


def test_a_job_that_is_paused_for_months_stays_in_the_list(testbed: PullTestbed) -> None:
    months_ago = time.time() - 100 * 24 * 3600
    paused = testbed.submit("tiny:f16")
    ended = testbed.submit("old:1b")
    testbed.commands.pause(paused.id)
    testbed.commands.cancel(ended.id)
    testbed.client.zadd(redis_keys.PULLS, {paused.id: months_ago, ended.id: months_ago})

    last = testbed.submit("new:1b")
    testbed.commands.cancel(last.id)

    assert [job.id for job in testbed.job_store.find()] == [last.id, paused.id]
