"""The pool starts a worker when a job waits, and lets it end when none does."""

from __future__ import annotations

import contextlib
import sys
import threading

import psutil
import pytest

from services.puller.maintenance import Maintenance
from services.puller.worker_pool import WorkerPool
from tests.puller.conftest import PullTestbed
from tests.puller.processes import build_environment, wait_for, wait_for_end

# Without work it ends after a second.
IMPATIENT_WORKER = "import services.puller.worker as w; w.IDLE_SECONDS = 1; w.main()"


def has_worker() -> bool:
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # it has ended
            if IMPATIENT_WORKER in process.cmdline():
                return True
    return False


def test_an_idle_worker_ends_and_the_next_job_starts_another(
    testbed: PullTestbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in build_environment(testbed).items():
        monkeypatch.setenv(name, value)
    maintenance = Maintenance(testbed.job_store, testbed.job_queue, testbed.store, max_attempts=3)
    pool = WorkerPool(
        maintenance,
        workers=2,
        job_queue=testbed.job_queue,
        first_start=lambda: None,
        command=(sys.executable, "-c", IMPATIENT_WORKER),
    )
    thread = threading.Thread(target=pool.run)
    thread.start()
    try:
        for model in ("tiny:f16", "tiny:latest"):
            job = wait_for_end(testbed, testbed.submit(model))
            assert job.attempts == 1
            wait_for(lambda: not has_worker())
    finally:
        pool.stop()
        thread.join(30)
