"""The function that every ticket calls, whatever it names (PullTicket in `worker.py`).

RQ passes plain arguments, so each worker process installs its job runner once.
"""

from __future__ import annotations

from services.puller.job_runner import JobRunner

_runner: JobRunner | None = None


def install(runner: JobRunner) -> None:
    """Set the job runner of this process. Call it once, before the worker starts."""
    global _runner  # noqa: PLW0603  RQ offers no other way to pass it
    _runner = runner


def pull_model(job_id: str, ticket: int) -> None:
    """Run the ticket of a pull job. The job's own state has the outcome, not RQ's."""
    assert _runner is not None, "call install() first"
    _runner.run(job_id, ticket)
