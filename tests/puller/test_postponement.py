"""Outages: when a job is tried again, and that it then continues."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from services.puller import build
from services.puller.download.retry import RetryPolicy
from services.puller.maintenance import Maintenance
from services.puller.postponement import MAX_OUTAGE_SECONDS, Postponement, plan_next_attempt
from services.shared.pulls.job import JobState, PullJob, StopRequest
from tests.conftest import TINY_GGUF
from tests.fakes.registries.faults import ALWAYS, Fault
from tests.fakes.registries.oci import Registry, sha256_digest
from tests.fakes.registries.server import LoopbackServer
from tests.puller.conftest import PullTestbed

DAY = MAX_OUTAGE_SECONDS
PLANS = {
    "the first failure": ((1000.0, None, False, None), Postponement(1005.0, 1000.0)),
    "after a minute": ((1000.0, 940.0, False, None), Postponement(1015.0, 940.0)),
    "after an hour": ((9000.0, 5400.0, False, None), Postponement(9040.0, 5400.0)),
    "a new outage": ((9000.0, 5400.0, True, None), Postponement(9005.0, 9000.0)),
    "a quota": ((1000.0, None, False, 287.0), Postponement(1287.0, 1000.0)),
    "an endless quota": ((1000.0, None, False, 1e9), Postponement(4600.0, 1000.0)),
    "after a day": ((DAY, 0.0, False, None), None),
    "after a day with bytes": ((DAY, 0.0, True, None), Postponement(DAY + 5, DAY)),
}


@pytest.mark.parametrize(("attempt", "plan"), PLANS.values(), ids=PLANS.keys())
def test_the_next_attempt(
    attempt: tuple[float, float | None, bool, float | None], plan: Postponement | None
) -> None:
    now, since, made_progress, wait = attempt

    assert plan == plan_next_attempt(
        now=now,
        unavailable_since=since,
        made_progress=made_progress,
        requested_wait_seconds=wait,
    )


@pytest.fixture(autouse=True)
def _fast_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "RetryPolicy", partial(RetryPolicy, backoff_seconds=0.001))


def maintain(testbed: PullTestbed) -> None:
    Maintenance(testbed.job_store, testbed.job_queue, testbed.store, max_attempts=3).requeue_jobs()


def wait_seconds(job: PullJob) -> float:
    """How long after the begin of the outage the job is tried again."""
    assert job.not_before is not None
    assert job.unavailable_since is not None
    return job.not_before - job.unavailable_since


def let_time_pass(testbed: PullTestbed, job: PullJob, seconds: float) -> None:
    now = testbed.job_store.get(job.id)
    assert now.not_before is not None
    assert now.unavailable_since is not None
    changed = {
        "not_before": now.not_before - seconds,
        "unavailable_since": now.unavailable_since - seconds,
    }
    assert testbed.job_store.change_if(job.id, {}, changed)


OUTAGES = {
    "of the registry": ("", "the registry answered HTTP 503; the pull will be retried"),
    "of the content network": (
        sha256_digest(TINY_GGUF.read_bytes()),
        "the source answered HTTP 503; the pull will be retried",
    ),
}


@pytest.mark.parametrize(("path", "note"), OUTAGES.values(), ids=OUTAGES.keys())
def test_an_outage_postpones_a_job_until_the_source_answers(
    testbed: PullTestbed, registry: Registry, cdn: LoopbackServer, path: str, note: str
) -> None:
    fault = Fault(path_part=path, status=503, times=ALWAYS)
    registry.plan.faults = [] if path else [fault]
    cdn.plan.faults = [fault]

    job = testbed.pull("tiny:f16")
    assert (job.state, job.note, job.attempts) == (JobState.QUEUED, note, 0)
    assert wait_seconds(job) == pytest.approx(5)
    maintain(testbed)
    assert testbed.job_queue.list_waiting() == set()

    registry.plan.faults = cdn.plan.faults = []
    let_time_pass(testbed, job, 60.0)
    maintain(testbed)
    testbed.run_queue()
    done = testbed.job_store.get(job.id)
    assert (done.state, done.note, done.not_before) == (JobState.DONE, None, None)


@pytest.mark.parametrize("where", ["the registry", "its tokens", "the content network"])
def test_a_source_that_asks_for_minutes_frees_its_worker(
    testbed: PullTestbed, registry: Registry, cdn: LoopbackServer, where: str
) -> None:
    server, path = {
        "the registry": (registry, "/manifests/"),
        "its tokens": (registry, "/v2/token"),
        "the content network": (cdn, sha256_digest(TINY_GGUF.read_bytes())),
    }[where]
    registry.token = "t0ken" if where == "its tokens" else None
    server.plan.faults = [
        Fault(path_part=path, status=429, rate_limit='"api";r=0;t=287', times=ALWAYS)
    ]

    job = testbed.pull("tiny:f16")

    assert job.state is JobState.QUEUED
    assert wait_seconds(job) == pytest.approx(287)
    assert sum(path in requested for requested in server.paths()) == 1


def test_after_a_day_without_a_byte_the_job_fails(testbed: PullTestbed, registry: Registry) -> None:
    registry.plan.faults = [Fault(status=503, times=ALWAYS)]
    job = testbed.pull("tiny:f16")

    let_time_pass(testbed, job, DAY)
    maintain(testbed)
    testbed.run_queue()

    failed = testbed.job_store.get(job.id)
    assert (failed.state, failed.error_code) == (JobState.FAILED, "source_unavailable")


def test_a_postponed_job_can_be_resumed_paused_and_cancelled(
    testbed: PullTestbed, registry: Registry
) -> None:
    registry.plan.faults = [Fault(status=503, times=ALWAYS)]
    job = testbed.pull("tiny:f16")

    resumed = testbed.commands.resume(job.id)
    assert (resumed.state, resumed.not_before, resumed.ticket) == (
        JobState.QUEUED,
        None,
        job.ticket + 1,
    )
    testbed.job_queue.send(resumed)
    testbed.run_queue()
    paused = testbed.commands.pause(job.id)
    assert (paused.state, paused.note, paused.not_before) == (JobState.PAUSED, None, None)
    assert testbed.commands.cancel(job.id).state is JobState.CANCELLED


@pytest.mark.parametrize(
    ("request_", "state"),
    [(StopRequest.CANCEL, JobState.CANCELLED), (StopRequest.PAUSE, JobState.PAUSED)],
)
def test_a_request_that_came_while_the_job_was_postponed_does_not_wait(
    testbed: PullTestbed, registry: Registry, request_: StopRequest, state: JobState
) -> None:
    registry.plan.faults = [Fault(status=429, retry_after="300", times=ALWAYS)]
    job = testbed.pull("tiny:f16")
    assert testbed.job_store.change_if(job.id, {}, {"requested": request_})

    maintain(testbed)
    testbed.run_queue()

    ended = testbed.job_store.get(job.id)
    assert (ended.state, ended.requested) == (state, None)
    assert len(registry.requests) == 1


def test_a_first_start_before_the_network_is_there_only_waits(
    make_testbed: Callable[..., PullTestbed],
) -> None:
    testbed = make_testbed(ollama_registry="http://127.0.0.1:1")

    job = testbed.pull("tiny:f16")

    assert (job.state, job.note) == (
        JobState.QUEUED,
        "127.0.0.1 does not answer; the pull will be retried",
    )


def test_tokens_that_live_for_minutes_are_renewed_while_bytes_arrive(
    make_testbed: Callable[..., PullTestbed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.puller.download.progress.choose_piece_bytes", lambda n: 250_000)
    monkeypatch.setattr(
        "services.puller.download.range_workers.choose_request_bytes", lambda n: 250_000
    )
    model = sha256_digest(TINY_GGUF.read_bytes())
    with Registry(token="t0ken") as private:
        private.add_model("library/tiny:latest", {"model": TINY_GGUF.read_bytes()})
        # Every second request finds its token expired.
        private.plan.faults = [
            Fault(path_part=model, status=401, times=1, after=i + 1) for i in range(8)
        ]
        testbed = make_testbed(ollama_registry=private.url, pull_connections=1)

        assert testbed.pull("tiny:latest").state is JobState.DONE
        assert sum("/v2/token" in path for path in private.paths()) == 9
