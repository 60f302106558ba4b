"""What RQ calls: one function, found by its path (`shared/pulls/job.py PULL_MODEL`).

RQ hands over plain arguments, so what a job needs is installed once per worker process.
"""

from __future__ import annotations

from services.puller.job_runner import Runner

_runner: Runner | None = None


def install(runner: Runner) -> None:
    """Give this process's jobs what they need. Called once, before the worker works."""
    global _runner  # noqa: PLW0603  RQ leaves no other way in
    _runner = runner


def pull_model(job_id: str, ticket: int) -> None:
    """Run a pull job's ticket. How it ended is in the job's own state, not in RQ's."""
    assert _runner is not None, "install() comes first"
    _runner.run(job_id, ticket)
