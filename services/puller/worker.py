"""A worker process: it takes tickets from RQ and runs them, one at a time, without a fork.

A fork would only cost memory, and on macOS a fork after Objective-C has started crashes. A
`kill -9` ends the job together with the worker; the worker pool notices it and queues the job
again. SIGTERM returns the running job to the queue at once, instead of finishing a long download.
When the worker pool dies, standard input ends, and the worker ends too. A worker without work ends
after a minute.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

import redis
from rq import Queue, SimpleWorker
from rq.executions import Execution
from rq.job import Job
from rq.serializers import JSONSerializer

from services.puller import jobs
from services.puller.build import build_job_runner
from services.puller.job_runner import JobRunner
from services.puller.settings import PullerSettings
from services.shared.errors import InvalidSettings
from services.shared.logs import set_up_logs
from services.shared.pulls.job import QUEUE
from services.shared.redis.redis_client import connect
from services.shared.settings import read_settings

logger = logging.getLogger(__name__)

_HEARTBEAT_SECONDS = 15
_MAINTENANCE_SECONDS = 60
IDLE_SECONDS = 60  # then the worker ends, because it takes 50 MiB


class PullTicket(Job):
    """A ticket: whatever it names in Redis, it calls `jobs.pull_model` and nothing else.

    RQ imports and calls any function that a job or its callbacks name. Whoever may write to the
    queue would run code in the one process that reaches the internet.
    """

    @property
    def func(self) -> Callable[..., object]:
        """What performing the ticket calls."""
        return jobs.pull_model

    @property
    def success_callback(self) -> None:
        """None: tickets have no callbacks."""

    @property
    def failure_callback(self) -> None:
        """None: tickets have no callbacks."""

    @property
    def stopped_callback(self) -> None:
        """None: tickets have no callbacks."""


class PullWorker(SimpleWorker):
    """RQ's in-process worker, with heartbeats during long jobs and a quick stop."""

    runner: JobRunner | None = None

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Run the ticket while a thread sends heartbeats to RQ."""
        self.set_state("busy")
        execution = self.prepare_execution(job)
        done = threading.Event()
        heartbeat = threading.Thread(
            target=self._send_heartbeats, args=(job, execution, done), daemon=True
        )
        heartbeat.start()
        try:
            self.perform_job(job, queue, execution)
        finally:
            done.set()
            heartbeat.join()
        self.set_state("idle")

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        """The seconds after which RQ considers a worker without heartbeats dead."""
        return _HEARTBEAT_SECONDS * 4

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Return the running job to the queue, and end the worker."""
        if self.runner is not None:
            self.runner.request_stop()
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]

    def _send_heartbeats(self, job: Job, execution: Execution, done: threading.Event) -> None:
        while not done.wait(_HEARTBEAT_SECONDS):
            try:
                self.maintain_heartbeats(job, execution)
            except redis.RedisError:
                logger.warning("redis does not answer")


def build_worker(client: redis.Redis, runner: JobRunner) -> PullWorker:
    """Build a worker of the pull queue. `work(burst=True)` ends when the queue is empty."""
    jobs.install(runner)
    worker = PullWorker(
        [Queue(QUEUE, connection=client, serializer=JSONSerializer, job_class=PullTicket)],
        connection=client,
        serializer=JSONSerializer,
        job_class=PullTicket,
        maintenance_interval=_MAINTENANCE_SECONDS,
        job_monitoring_interval=_HEARTBEAT_SECONDS,
        log_job_description=False,
    )
    worker.log_result_lifespan = False
    worker.runner = runner
    return worker


def exit_with_parent() -> None:
    """End this process when its parent dies, which closes the pipe on standard input."""

    def watch() -> None:
        while os.read(0, 1):  # not sys.stdin, whose lock would block the end of the process
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def main() -> None:
    """Run `python -m services.puller.worker [--burst]`, which the worker pool starts."""
    settings = read_settings(PullerSettings)
    set_up_logs("puller", level=settings.log_level, fmt=settings.log_format)
    logging.getLogger("rq.worker").setLevel(logging.WARNING)
    client = connect(settings.redis_url, settings.redis_password_file)
    try:
        runner = build_job_runner(settings, client)
    except InvalidSettings as error:
        print(error.message, file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from error
    if "--burst" not in sys.argv:
        exit_with_parent()
    build_worker(client, runner).work(
        burst="--burst" in sys.argv, logging_level="WARNING", max_idle_time=IDLE_SECONDS
    )


if __name__ == "__main__":
    main()
