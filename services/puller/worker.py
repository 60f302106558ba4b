"""A worker process: takes tickets from RQ and runs them, one at a time, in this very process.

No fork: it would cost memory for nothing, and on macOS forking after Objective-C started crashes.
A `kill -9` ends job and worker together; the supervisor sees the child go and queues the job again.
SIGTERM puts the running job back within moments instead of finishing a download of hours. When the
supervisor itself dies, standard input ends, and the worker leaves.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from types import FrameType

import redis
from rq import Queue, SimpleWorker
from rq.executions import Execution
from rq.job import Job
from rq.serializers import JSONSerializer

from services.puller import jobs
from services.puller.build import build_runner
from services.puller.job_runner import Runner
from services.puller.settings import PullerSettings
from services.shared.errors import InvalidSettings
from services.shared.logs import set_up_logs
from services.shared.pulls.job import QUEUE
from services.shared.redis_client import connect
from services.shared.settings import read_settings

logger = logging.getLogger(__name__)

_HEARTBEAT_SECONDS = 15
_MAINTENANCE_SECONDS = 60


class PullWorker(SimpleWorker):
    """RQ's in-process worker that keeps its heartbeat during long jobs and leaves them quickly."""

    runner: Runner | None = None

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Run the ticket; a thread tells RQ meanwhile that the worker is alive."""
        self.set_state("busy")
        execution = self.prepare_execution(job)
        done = threading.Event()
        beat = threading.Thread(target=self._beat, args=(job, execution, done), daemon=True)
        beat.start()
        try:
            self.perform_job(job, queue, execution)
        finally:
            done.set()
            beat.join()
        self.set_state("idle")

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        """Seconds until RQ counts a silent worker as dead."""
        return _HEARTBEAT_SECONDS * 4

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Leave: the running job goes back into the queue."""
        if self.runner is not None:
            self.runner.leave()
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]

    def _beat(self, job: Job, execution: Execution, done: threading.Event) -> None:
        while not done.wait(_HEARTBEAT_SECONDS):
            try:
                self.maintain_heartbeats(job, execution)
            except redis.RedisError:
                logger.warning("redis does not answer")


def make_worker(client: redis.Redis, runner: Runner) -> PullWorker:
    """A worker on the pulls queue. `work(burst=True)` ends when the queue is empty."""
    jobs.install(runner)
    worker = PullWorker(
        [Queue(QUEUE, connection=client, serializer=JSONSerializer)],
        connection=client,
        serializer=JSONSerializer,
        maintenance_interval=_MAINTENANCE_SECONDS,
        job_monitoring_interval=_HEARTBEAT_SECONDS,
        log_job_description=False,
    )
    worker.log_result_lifespan = False
    worker.runner = runner
    return worker


def leave_with_parent() -> None:
    """End this process soon after its parent is gone: standard input is a pipe it holds open."""

    def watch() -> None:
        while os.read(0, 1):  # not sys.stdin: its lock would be held when the process ends
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def main() -> None:
    """`python -m services.puller.worker [--burst]`, started by the supervisor."""
    settings = read_settings(PullerSettings)
    set_up_logs("puller", level=settings.log_level, fmt=settings.log_format)
    logging.getLogger("rq.worker").setLevel(logging.WARNING)
    client = connect(settings.redis_url, settings.redis_password_file)
    try:
        runner = build_runner(settings, client)
    except InvalidSettings as error:
        print(error.message, file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from error
    if "--burst" not in sys.argv:
        leave_with_parent()
    make_worker(client, runner).work(burst="--burst" in sys.argv, logging_level="WARNING")


if __name__ == "__main__":
    main()
