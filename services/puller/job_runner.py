"""Run one ticket: claim the job, pull, and write down how it ended.

Whatever happens to Redis meanwhile, the outcome is written once it is back; if it stays away longer
than the lease, the sweep queues the job again, and the next run finds the blobs already there.
"""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

import redis

from services.puller.job_control import Interrupted, JobControl, Why
from services.puller.pull import Puller
from services.puller.webhook import Webhook
from services.shared.errors import InternalError, SpindllError
from services.shared.pulls.job import JobState, PullJob
from services.shared.pulls.job_queue import JobQueue
from services.shared.pulls.job_store import JobStore
from services.shared.store.manifest import Manifest

T = TypeVar("T")

logger = logging.getLogger(__name__)

_REDIS_AWAY_SECONDS = 120.0
_REDIS_RETRY_SECONDS = 1.0


def owner_prefix(pid: int) -> str:
    """How the owner of a lease starts that a process of this host holds."""
    return f"{socket.gethostname()}:{pid}:"


class Runner:
    """One worker process's jobs, one at a time. `leave` may come from a signal handler."""

    def __init__(
        self, board: JobStore, tickets: JobQueue, puller: Puller, webhook: Webhook | None
    ) -> None:
        self._board = board
        self._tickets = tickets
        self._puller = puller
        self._webhook = webhook
        self._control: JobControl | None = None
        self._is_leaving = False

    def leave(self) -> None:
        """The process is asked to stop: put the running job back for somebody else."""
        self._is_leaving = True
        if self._control is not None:
            self._control.interrupt(Why.LEAVE)

    def run(self, job_id: str, ticket: int) -> None:
        """Do what the ticket asks for; an old ticket asks for nothing."""
        owner = f"{owner_prefix(os.getpid())}{uuid.uuid4().hex[:8]}"
        job = self._board.claim(job_id, ticket, owner)
        if job is None:
            logger.info("ticket is not current", extra={"job": job_id})
            return
        logger.info("pull started", extra={"job": job_id, "model": job.model, "try": job.attempts})
        control = JobControl(self._board, job, owner)
        self._control = control
        if self._is_leaving:
            control.interrupt(Why.LEAVE)
        try:
            self._settle(job, owner, control, self._outcome(job, control))
        finally:
            self._control = None

    def _outcome(self, job: PullJob, control: JobControl) -> Why | SpindllError | Manifest:
        try:
            with control:
                control.check()
                manifest = self._puller.pull(job, control)
        except Interrupted as interrupted:
            return interrupted.why
        except SpindllError as error:
            return error
        except Exception:
            logger.exception("pull failed", extra={"job": job.id})
            return InternalError("the pull failed for an internal reason; the log has the story")
        logger.info(
            "pull done", extra={"job": job.id, "model": job.model, "bytes": manifest.size_bytes}
        )
        return manifest

    def _settle(
        self,
        job: PullJob,
        owner: str,
        control: JobControl,
        outcome: Why | SpindllError | Manifest,
    ) -> None:
        fields = control.fields()
        del fields["bytes_per_second"], fields["note"]
        if outcome is Why.TAKEN_OVER:
            logger.warning("another worker took the job over", extra={"job": job.id})
        elif outcome is Why.LEAVE:
            _persistently(lambda: self._give_back(job, owner, fields))
        elif outcome is Why.PAUSE:
            _persistently(lambda: self._board.hold(job.id, owner, **fields))
        elif outcome is Why.CANCEL:
            self._end(job, owner, JobState.CANCELLED, fields)
        elif isinstance(outcome, SpindllError):
            logger.warning("pull failed", extra={"job": job.id, "code": outcome.code})
            failure = {"error": outcome.message, "error_code": outcome.code}
            self._end(job, owner, JobState.FAILED, {**fields, **failure})
        elif isinstance(outcome, Manifest):
            done = {**fields, "warnings": outcome.description.warnings}
            self._end(job, owner, JobState.DONE, done)

    def _give_back(self, job: PullJob, owner: str, fields: dict[str, Any]) -> None:
        # Leaving on request is no failure, so this try does not count.
        back = self._board.put_back(job, owner, attempts=job.attempts - 1, **fields)
        if back is not None:
            self._tickets.send(back)

    def _end(self, job: PullJob, owner: str, state: JobState, fields: dict[str, Any]) -> None:
        ended = _persistently(lambda: self._board.end(job, state, owner=owner, **fields))
        if ended and self._webhook is not None:
            self._webhook.send(self._board.get(job.id))


def _persistently(action: Callable[[], T]) -> T | None:
    deadline = time.monotonic() + _REDIS_AWAY_SECONDS
    while True:
        try:
            return action()
        except redis.RedisError:
            if time.monotonic() > deadline:
                logger.exception("redis stayed away")
                return None
            time.sleep(_REDIS_RETRY_SECONDS)
