"""`python -m services.puller` in a test, and waiting for what its processes do."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TypeVar

import psutil

from services.shared.pulls.job import JobState, PullJob
from tests.conftest import ROOT
from tests.puller.conftest import PullTestbed

WAIT_SECONDS = 60

T = TypeVar("T")


def build_environment(testbed: PullTestbed, **settings: str) -> dict[str, str]:
    variables = {
        "DATA_DIR": str(testbed.settings.data_dir),
        "REDIS_URL": testbed.settings.redis_url,
        "OLLAMA_REGISTRY": testbed.settings.ollama_registry,
        "PULL_RESERVE_BYTES": "0",
        "PULL_WORKERS": "1",
        "LOG_LEVEL": "WARNING",
        **settings,
    }
    return {f"SPINDLL_{name}": value for name, value in variables.items()}


class PullerProcess:
    """`python -m services.puller` with its workers."""

    def __init__(self, testbed: PullTestbed, **settings: str) -> None:
        environment = {**os.environ, **build_environment(testbed, **settings)}
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


def wait_for(condition: Callable[[], T | None], seconds: float = WAIT_SECONDS) -> T:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.02)
    return found


def wait_for_end(testbed: PullTestbed, job: PullJob) -> PullJob:
    return wait_for(lambda: j if (j := testbed.job_store.get(job.id)).state.has_ended else None)


def wait_until_running(testbed: PullTestbed, job: PullJob, min_bytes: int = 1) -> PullJob:
    def running_job() -> PullJob | None:
        now = testbed.job_store.get(job.id)
        has_bytes = now.downloaded_bytes >= min_bytes
        return now if now.state is JobState.RUNNING and has_bytes else None

    return wait_for(running_job)
