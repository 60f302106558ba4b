"""The puller as it really runs: a supervisor, its worker processes, and kill -9 at any moment."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from services.shared.pulls.job import JobState, PullJob
from tests.conftest import ROOT, TINY_GGUF
from tests.fakes.registries.faults import ALWAYS, Fault
from tests.fakes.registries.oci import Registry, digest_of
from tests.fakes.registries.server import LoopbackServer
from tests.puller.conftest import Desk

PATIENCE_SECONDS = 60

T = TypeVar("T")


class PullerProcess:
    """`python -m services.puller` with its workers."""

    def __init__(self, desk: Desk, **settings: str) -> None:
        chosen = {
            "DATA_DIR": str(desk.settings.data_dir),
            "REDIS_URL": desk.settings.redis_url,
            "OLLAMA_REGISTRY": desk.settings.ollama_registry,
            "PULL_RESERVE_BYTES": "0",
            "PULL_WORKERS": "1",
            "LOG_LEVEL": "WARNING",
            **settings,
        }
        environment = {**os.environ, **{f"SPINDLL_{k}": v for k, v in chosen.items()}}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "services.puller"], cwd=ROOT, env=environment
        )

    def workers(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def stop(self) -> int:
        children = self.workers()
        self.process.terminate()
        status = self.process.wait(20)
        assert psutil.wait_procs(children, timeout=10)[1] == []
        return status


@pytest.fixture
def start(desk: Desk) -> Iterator[Callable[..., PullerProcess]]:
    started: list[PullerProcess] = []

    def start_puller(**settings: str) -> PullerProcess:
        started.append(PullerProcess(desk, **settings))
        return started[-1]

    yield start_puller
    for puller in started:
        if puller.process.poll() is None:
            puller.stop()


def wait_for(fact: Callable[[], T | None], seconds: float = PATIENCE_SECONDS) -> T:
    deadline = time.monotonic() + seconds
    while not (found := fact()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return found


def ended(desk: Desk, job: PullJob) -> PullJob:
    return wait_for(lambda: j if (j := desk.board.get(job.id)).state.has_ended else None)


def running(desk: Desk, job: PullJob, at_least: int = 1) -> PullJob:
    def looks() -> PullJob | None:
        now = desk.board.get(job.id)
        arrived = now.downloaded_bytes >= at_least
        return now if now.state is JobState.RUNNING and arrived else None

    return wait_for(looks)


def tried(desk: Desk, job: PullJob, attempt: int) -> None:
    def looks() -> bool:
        now = desk.board.get(job.id)
        return now.state is JobState.RUNNING and now.attempts == attempt

    wait_for(looks)


def arrived(desk: Desk, job: PullJob, at_least: int) -> None:
    def looks() -> bool:
        now = desk.board.get(job.id)
        return now.downloaded_bytes >= at_least or now.state.has_ended

    wait_for(looks)


def test_the_first_start_brings_the_tiny_model_and_the_named_ones(
    desk: Desk, start: Callable[..., PullerProcess]
) -> None:
    puller = start(TINY_MODEL=str(TINY_GGUF), MODELS="tiny:f16, no model name")

    wait_for(lambda: len(desk.store.list()) == 2)
    assert [m.name for m in desk.store.list()] == ["tiny:f16", "tiny:latest"]
    desk.store.delete("tiny:latest")
    assert puller.stop() == 0
    again = start(TINY_MODEL=str(TINY_GGUF), MODELS="tiny:f16")
    wait_for(again.workers)
    job = desk.order("tiny:f16")
    ended(desk, job)

    assert [m.name for m in desk.store.list()] == ["tiny:f16"]
    assert len(desk.board.find()) == 2


def test_health_tells_whether_the_puller_lives(
    desk: Desk, start: Callable[..., PullerProcess]
) -> None:
    environment = {**os.environ, "SPINDLL_REDIS_URL": desk.settings.redis_url}

    def health() -> int:
        command = [sys.executable, "-m", "services.puller.health"]
        return subprocess.run(command, cwd=ROOT, env=environment).returncode

    assert health() == 1
    puller = start()
    wait_for(lambda: health() == 0)
    puller.stop()
    assert health() == 1


def test_a_stopped_puller_leaves_its_job_for_the_next_one(
    desk: Desk, start: Callable[..., PullerProcess], cdn: LoopbackServer
) -> None:
    model = digest_of(TINY_GGUF.read_bytes())
    cdn.plan.faults = [Fault(on=model, stall_at=100_000, times=ALWAYS)]
    first = start()
    job = desk.order("tiny:f16")
    running(desk, job, at_least=100_000)

    first.stop()

    left = desk.board.get(job.id)
    assert (left.state, left.attempts) == (JobState.QUEUED, 0)
    cdn.plan.faults = []
    start()
    assert ended(desk, job).state is JobState.DONE
    ranges = [seen.range for seen in cdn.seen if model in seen.path]
    assert ranges[-1] == f"bytes=100000-{TINY_GGUF.stat().st_size - 1}"


def test_workers_leave_when_their_supervisor_is_killed(
    desk: Desk, start: Callable[..., PullerProcess]
) -> None:
    puller = start(PULL_WORKERS="2")
    workers = wait_for(lambda: w if len(w := puller.workers()) == 2 else None)

    puller.process.kill()
    puller.process.wait()

    assert psutil.wait_procs(workers, timeout=20)[1] == []


def test_a_job_that_kills_its_worker_each_time_ends_failed(
    desk: Desk, start: Callable[..., PullerProcess], cdn: LoopbackServer
) -> None:
    cdn.plan.faults = [Fault(on=digest_of(TINY_GGUF.read_bytes()), stall_at=0, times=ALWAYS)]
    puller = start(PULL_ATTEMPTS="2")
    job = desk.order("tiny:f16")
    for attempt in (1, 2):
        tried(desk, job, attempt)
        for worker in puller.workers():
            worker.kill()

    last = ended(desk, job)
    assert (last.state, last.error_code) == (JobState.FAILED, "worker_died")
    assert last.error == "the worker died 2 times while working on this job"


def kill_marathon(
    desk: Desk, start: Callable[..., PullerProcess], cdn: LoopbackServer, kills: int
) -> None:
    """Kill workers (and now and then the supervisor) while models arrive in small cuts."""
    chance = random.Random(kills)
    data = TINY_GGUF.read_bytes()
    cdn.plan.faults = [
        Fault(on=digest_of(data), cut_at=chance.randrange(80_000, 400_000))
        for _ in range(4 * kills)
    ]
    puller = start(PULL_WORKERS="2", PULL_ATTEMPTS="100")
    for number in range(kills):
        job = desk.order("tiny:f16")
        arrived(desk, job, chance.randrange(len(data)))
        if number % 5 == 4:
            puller.process.send_signal(signal.SIGKILL)
            puller.process.wait()
            puller = start(PULL_WORKERS="2", PULL_ATTEMPTS="100")
        for worker in puller.workers():
            worker.send_signal(signal.SIGKILL)
        assert ended(desk, job).state is JobState.DONE
        manifest = desk.store.resolve("tiny:f16")
        assert desk.store.model_path(manifest).read_bytes() == data
        desk.store.delete("tiny:f16")
    puller.stop()
    desk.an_hour_passes()
    desk.store.sweep(min_age_seconds=0)
    assert desk.board.in_flight() == []
    assert desk.leftovers() == []
    assert list(desk.store.layout.blobs.glob("sha256-*")) == []


def test_kills_at_any_moment_lose_nothing(
    desk: Desk, start: Callable[..., PullerProcess], cdn: LoopbackServer
) -> None:
    kill_marathon(desk, start, cdn, kills=5)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_kills_at_any_moment_lose_nothing(
    desk: Desk, start: Callable[..., PullerProcess], cdn: LoopbackServer
) -> None:
    kill_marathon(desk, start, cdn, kills=50)


def test_one_blob_wanted_by_two_workers_is_fetched_once(
    desk: Desk, start: Callable[..., PullerProcess], registry: Registry, cdn: LoopbackServer
) -> None:
    data = TINY_GGUF.read_bytes()
    registry.add_model("library/twin:latest", {"model": data, "system": b"Another."})
    cdn.plan.faults = [Fault(on=digest_of(data), stall_at=50_000)]
    start(PULL_WORKERS="2", PULL_TIMEOUT_SECONDS="3")
    jobs = [desk.order("tiny:f16"), desk.order("twin:latest")]

    assert [ended(desk, job).state for job in jobs] == [JobState.DONE, JobState.DONE]

    fetched = [seen.range for seen in cdn.seen if digest_of(data) in seen.path]
    assert fetched == [f"bytes=0-{len(data) - 1}", f"bytes=50000-{len(data) - 1}"]


def test_bad_settings_stop_the_puller_by_name(
    desk: Desk, tmp_path: Path, start: Callable[..., PullerProcess]
) -> None:
    assert start(PULL_HOURS="late").process.wait(30) == 2
    assert start(OLLAMA_KEY_FILE=str(tmp_path / "missing")).process.wait(30) == 2
