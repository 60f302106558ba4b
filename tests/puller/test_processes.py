"""The puller as real processes: the worker pool, its workers, and kill -9 at any moment."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from services.puller.importing.local_files import import_file
from services.puller.settings import PullerSettings
from services.shared.pulls.job import JobState, PullJob
from tests.conftest import ROOT, TINY_GGUF
from tests.fakes.registries.faults import ALWAYS, Fault
from tests.fakes.registries.oci import Registry, sha256_digest
from tests.fakes.registries.server import LoopbackServer
from tests.puller.conftest import PullTestbed
from tests.puller.formats.gguf.writer import TENSORS, TensorSpec, write_gguf
from tests.puller.processes import PullerProcess, wait_for, wait_for_end, wait_until_running


@pytest.fixture
def start(testbed: PullTestbed) -> Iterator[Callable[..., PullerProcess]]:
    started: list[PullerProcess] = []

    def start_puller(**settings: str) -> PullerProcess:
        started.append(PullerProcess(testbed, **settings))
        return started[-1]

    yield start_puller
    for puller in started:
        if puller.process.poll() is None:
            puller.stop()


def wait_for_attempt(testbed: PullTestbed, job: PullJob, attempt: int) -> None:
    def is_at_attempt() -> bool:
        now = testbed.job_store.get(job.id)
        return now.state is JobState.RUNNING and now.attempts == attempt

    wait_for(is_at_attempt)


def wait_for_bytes(testbed: PullTestbed, job: PullJob, min_bytes: int) -> None:
    def has_bytes() -> bool:
        now = testbed.job_store.get(job.id)
        return now.downloaded_bytes >= min_bytes or now.state.has_ended

    wait_for(has_bytes)


def test_the_first_start_imports_the_tiny_model_and_pulls_the_named_ones(
    testbed: PullTestbed, start: Callable[..., PullerProcess]
) -> None:
    puller = start(TINY_MODEL=str(TINY_GGUF), MODELS="tiny:f16, no model name")

    wait_for(lambda: len(testbed.store.list()) == 2)
    assert [m.name for m in testbed.store.list()] == ["tiny:f16", "tiny:latest"]
    testbed.store.delete("tiny:latest")
    assert puller.stop() == 0
    start(TINY_MODEL=str(TINY_GGUF), MODELS="tiny:f16")
    job = testbed.submit("tiny:f16")
    wait_for_end(testbed, job)

    assert [m.name for m in testbed.store.list()] == ["tiny:f16"]
    assert len(testbed.job_store.find()) == 2


def test_the_heartbeat_file_is_renewed_while_the_puller_is_alive(
    start: Callable[..., PullerProcess], tmp_path: Path
) -> None:
    heartbeat = tmp_path / "alive"
    puller = start(HEARTBEAT_FILE=str(heartbeat))
    wait_for(heartbeat.exists)
    os.utime(heartbeat, (0, 0))

    wait_for(lambda: heartbeat.stat().st_mtime > 0)
    puller.stop()


@pytest.mark.parametrize(
    ("variable", "sentence"),
    [
        ("SSL_CERT_FILE", "SSL_CERT_FILE: the certificates cannot be read (No such file or direct"),
        ("SPINDLL_HF_TOKEN_FILE", "the file with the Hugging Face token is not readable"),
    ],
)
def test_a_named_file_that_cannot_be_read_ends_the_puller_with_the_reason(
    tmp_path: Path, variable: str, sentence: str
) -> None:
    environment = {**os.environ, "SPINDLL_DATA_DIR": str(tmp_path), variable: "/no/such/file"}
    command = [sys.executable, "-m", "services.puller"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    assert done.returncode == 2
    assert done.stderr.startswith(sentence)


def test_the_hub_token_may_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hf_x\n")

    assert PullerSettings(hf_token_file=tmp_path / "token").hub_token == "hf_x"


def test_a_stopped_puller_returns_its_job_to_the_queue(
    testbed: PullTestbed, start: Callable[..., PullerProcess], cdn: LoopbackServer
) -> None:
    model = sha256_digest(TINY_GGUF.read_bytes())
    cdn.plan.faults = [Fault(path_part=model, stall_at=100_000, times=ALWAYS)]
    first = start()
    job = testbed.submit("tiny:f16")
    wait_until_running(testbed, job, min_bytes=100_000)

    first.stop()

    left = testbed.job_store.get(job.id)
    assert (left.state, left.attempts) == (JobState.QUEUED, 0)
    cdn.plan.faults = []
    start()
    assert wait_for_end(testbed, job).state is JobState.DONE
    ranges = [request.range for request in cdn.requests if model in request.path]
    assert ranges[-1] == f"bytes=100000-{TINY_GGUF.stat().st_size - 1}"


def test_workers_end_when_the_worker_pool_is_killed(
    testbed: PullTestbed, start: Callable[..., PullerProcess], cdn: LoopbackServer
) -> None:
    cdn.plan.faults = [
        Fault(path_part=sha256_digest(TINY_GGUF.read_bytes()), stall_at=0, times=ALWAYS)
    ]
    puller = start(PULL_WORKERS="2")
    for name in ("tiny:f16", "tiny:latest"):
        testbed.submit(name)
    workers = wait_for(lambda: w if len(w := puller.workers()) == 2 else None)

    puller.process.kill()
    puller.process.wait()

    assert psutil.wait_procs(workers, timeout=20)[1] == []


def test_a_worker_runs_only_while_there_is_work(
    testbed: PullTestbed, start: Callable[..., PullerProcess], tmp_path: Path
) -> None:
    heartbeat = tmp_path / "alive"
    puller = start(PULL_WORKERS="2", HEARTBEAT_FILE=str(heartbeat))
    wait_for(heartbeat.exists)
    before = puller.workers()

    job = wait_for_end(testbed, testbed.submit("tiny:f16"))

    assert before == []
    assert job.state is JobState.DONE
    assert puller.workers()


def test_a_job_whose_workers_keep_dying_fails(
    testbed: PullTestbed, start: Callable[..., PullerProcess], cdn: LoopbackServer
) -> None:
    cdn.plan.faults = [
        Fault(path_part=sha256_digest(TINY_GGUF.read_bytes()), stall_at=0, times=ALWAYS)
    ]
    puller = start(PULL_ATTEMPTS="2")
    job = testbed.submit("tiny:f16")
    for attempt in (1, 2):
        wait_for_attempt(testbed, job, attempt)
        for worker in puller.workers():
            worker.kill()

    last = wait_for_end(testbed, job)
    assert (last.state, last.error_code) == (JobState.FAILED, "worker_died")
    assert last.error == "the worker died 2 times while working on this job"


def kill_marathon(
    testbed: PullTestbed, start: Callable[..., PullerProcess], cdn: LoopbackServer, kills: int
) -> None:
    """Kill the workers, and every fifth time the worker pool, while models download."""
    chance = random.Random(kills)
    data = TINY_GGUF.read_bytes()
    cdn.plan.faults = [
        Fault(path_part=sha256_digest(data), cut_at=chance.randrange(80_000, 400_000))
        for _ in range(4 * kills)
    ]
    puller = start(PULL_WORKERS="2", PULL_ATTEMPTS="100")
    for number in range(kills):
        job = testbed.submit("tiny:f16")
        wait_for_bytes(testbed, job, chance.randrange(len(data)))
        if number % 5 == 4:
            puller.process.send_signal(signal.SIGKILL)
            puller.process.wait()
            puller = start(PULL_WORKERS="2", PULL_ATTEMPTS="100")
        for worker in puller.workers():
            worker.send_signal(signal.SIGKILL)
        assert wait_for_end(testbed, job).state is JobState.DONE
        manifest = testbed.store.resolve("tiny:f16")
        assert testbed.store.model_path(manifest).read_bytes() == data
        testbed.store.delete("tiny:f16")
    puller.stop()
    testbed.age_temporary_files()
    import_file(testbed.store, TINY_GGUF, "kept")  # without any manifest, a sweep is careful
    testbed.store.sweep(min_age_seconds=0)
    assert testbed.job_store.list_in_flight() == []
    assert testbed.leftover_files() == []
    assert len(list(testbed.store.layout.blobs.glob("sha256-*"))) == 1


def test_kill_9_at_any_moment_loses_nothing(
    testbed: PullTestbed, start: Callable[..., PullerProcess], cdn: LoopbackServer
) -> None:
    kill_marathon(testbed, start, cdn, kills=5)


@pytest.mark.slow
def test_kill_9_between_parallel_pieces_loses_nothing(
    testbed: PullTestbed,
    start: Callable[..., PullerProcess],
    registry: Registry,
    cdn: LoopbackServer,
) -> None:
    size = 80 << 20  # five pieces
    weights = random.Random(1).randbytes(size)
    data = write_gguf(tensors=[*TENSORS, TensorSpec("blk.0.ffn_up.weight", (1024, size // 4096))])
    data = data[: len(data) - size] + weights
    registry.add_model("library/big:latest", {"model": data})
    puller = start(PULL_CONNECTIONS="4", PULL_MAX_BYTES_PER_SECOND=str(16 << 20))
    job = testbed.submit("big:latest")
    for part in (1, 2, 3):
        wait_for_bytes(testbed, job, part * size // 4)
        for worker in puller.workers():
            worker.kill()

    done = wait_for_end(testbed, job)

    assert (done.state, done.error) == (JobState.DONE, None)
    manifest = testbed.store.resolve("big")
    assert testbed.store.model_path(manifest).read_bytes() == data
    assert len({request.range for request in cdn.requests if request.range}) >= 5


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_kills_at_any_moment_lose_nothing(
    testbed: PullTestbed, start: Callable[..., PullerProcess], cdn: LoopbackServer
) -> None:
    kill_marathon(testbed, start, cdn, kills=50)


def test_a_blob_that_two_jobs_need_is_downloaded_once(
    testbed: PullTestbed,
    start: Callable[..., PullerProcess],
    registry: Registry,
    cdn: LoopbackServer,
) -> None:
    data = TINY_GGUF.read_bytes()
    registry.add_model("library/twin:latest", {"model": data, "system": b"Another."})
    cdn.plan.faults = [Fault(path_part=sha256_digest(data), stall_at=50_000)]
    start(PULL_WORKERS="2", PULL_TIMEOUT_SECONDS="3")
    jobs = [testbed.submit("tiny:f16"), testbed.submit("twin:latest")]

    assert [wait_for_end(testbed, job).state for job in jobs] == [JobState.DONE, JobState.DONE]

    fetched = [request.range for request in cdn.requests if sha256_digest(data) in request.path]
    assert fetched == [f"bytes=0-{len(data) - 1}", f"bytes=50000-{len(data) - 1}"]


def test_unusable_settings_end_the_puller_with_status_2(
    testbed: PullTestbed, tmp_path: Path, start: Callable[..., PullerProcess]
) -> None:
    assert start(PULL_HOURS="late").process.wait(30) == 2
    assert start(OLLAMA_KEY_FILE=str(tmp_path / "missing")).process.wait(30) == 2
