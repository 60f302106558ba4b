"""Run one ticket: claim its job, pull the model, and record the outcome.

While Redis does not answer, the outcome waits for it. If the outage is longer than the lease, the
maintenance queues the job again, and the next run finds the blobs in the store.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec
import redis

from services.puller.job_control import Interrupted, JobControl, StopReason
from services.puller.postponement import Postponement, plan_next_attempt, plan_room_check
from services.puller.pull_model import Puller
from services.shared.errors import (
    DiskFull,
    InternalError,
    PullFailed,
    SourceUnavailable,
    SpindllError,
)
from services.shared.pulls.job import JobState, PullJob
from services.shared.pulls.job_queue import JobQueue
from services.shared.pulls.job_store import JobStore
from services.shared.pulls.partials import remove_partials
from services.shared.store.manifest import Manifest
from services.shared.store.model_store import ModelStore

T = TypeVar("T")

logger = logging.getLogger(__name__)

_MAX_REDIS_OUTAGE_SECONDS = 120.0
_REDIS_RETRY_SECONDS = 1.0


def build_lease_owner_prefix(pid: int) -> str:
    """The start of the lease owner's name for a process of this host."""
    return f"{socket.gethostname()}:{pid}:"


class JobRunner:
    """Runs the jobs of one worker process, one at a time."""

    def __init__(
        self,
        job_store: JobStore,
        job_queue: JobQueue,
        store: ModelStore,
        puller: Puller,
    ) -> None:
        self._job_store = job_store
        self._job_queue = job_queue
        self._store = store
        self._puller = puller
        self._control: JobControl | None = None
        self._is_stopping = False

    def request_stop(self) -> None:
        """Return the running job to the queue, because the process ends.

        Safe in a signal handler.
        """
        self._is_stopping = True
        if self._control is not None:
            self._control.interrupt(StopReason.SHUTDOWN)

    def run(self, job_id: str, ticket: int) -> None:
        """Run the job of a ticket. A ticket that is not current is ignored."""
        owner = f"{build_lease_owner_prefix(os.getpid())}{uuid.uuid4().hex[:8]}"
        job = self._job_store.claim(job_id, ticket, owner)
        if job is None:
            logger.info("ticket is not current", extra={"job": job_id})
            return
        logger.info(
            "pull started", extra={"job": job_id, "model": job.model, "attempt": job.attempts}
        )
        control = JobControl(self._job_store, job, owner)
        self._control = control
        if self._is_stopping:
            control.interrupt(StopReason.SHUTDOWN)
        if job.requested is not None:  # while its last worker put it back
            control.interrupt(StopReason(job.requested.value))
        try:
            self._record_outcome(job, owner, control, self._pull(job, control))
        finally:
            self._control = None

    def _pull(self, job: PullJob, control: JobControl) -> StopReason | SpindllError | Manifest:
        try:
            with control:
                control.raise_if_interrupted()
                manifest = self._puller.pull(job, control)
        except Interrupted as interrupted:
            return interrupted.reason
        except SpindllError as error:
            # A job that a client stops must not be postponed, which could take an hour.
            return control.stop_reason or error
        except OSError as error:
            return _translate_os_error(error, job.id)
        except Exception:
            logger.exception("pull failed", extra={"job": job.id})
            return InternalError(
                "the pull failed for an internal reason; see the log of the puller"
            )
        logger.info(
            "pull done", extra={"job": job.id, "model": job.model, "bytes": manifest.size_bytes}
        )
        return manifest

    def _record_outcome(
        self,
        job: PullJob,
        owner: str,
        control: JobControl,
        outcome: StopReason | SpindllError | Manifest,
    ) -> None:
        fields = control.progress_fields()
        del fields["bytes_per_second"], fields["note"]
        fields.pop("attempts", None)
        if outcome is StopReason.TAKEN_OVER:
            logger.warning(
                "the job is no longer this worker's: another one has it, or redis lost its data",
                extra={"job": job.id},
            )
        elif outcome is StopReason.SHUTDOWN:
            _retry_on_redis_errors(lambda: self._requeue(job, owner, fields))
        elif outcome is StopReason.PAUSE:
            _retry_on_redis_errors(lambda: self._job_store.pause(job.id, owner, **fields))
        elif outcome is StopReason.CANCEL:
            self._end(job, owner, JobState.CANCELLED, fields)
            self._remove_partials(job, fields)
        elif isinstance(outcome, SpindllError):
            if self._postpone(job, owner, control, outcome, fields):
                return
            logger.warning("pull failed", extra={"job": job.id, "code": outcome.code})
            failure = {"error": outcome.message, "error_code": outcome.code}
            self._end(job, owner, JobState.FAILED, {**fields, **failure})
        elif isinstance(outcome, Manifest):
            done = {**fields, "warnings": outcome.description.warnings}
            self._end(job, owner, JobState.DONE, done)

    def _requeue(self, job: PullJob, owner: str, fields: dict[str, Any]) -> None:
        # A requested stop is no failure, so this attempt does not count.
        queued = self._job_store.put_back(job, owner, **{"attempts": job.attempts - 1, **fields})
        if queued is not None:
            self._job_queue.send(queued)

    def _postpone(
        self,
        job: PullJob,
        owner: str,
        control: JobControl,
        error: SpindllError,
        fields: dict[str, Any],
    ) -> bool:
        """Queue the job for a later attempt, if waiting may help; the maintenance sends it then."""
        plan: Postponement | None = None
        if isinstance(error, DiskFull) and error.details.get("other_downloads"):
            plan = plan_room_check(now=time.time(), unavailable_since=job.unavailable_since)
        elif isinstance(error, SourceUnavailable):
            plan = plan_next_attempt(
                now=time.time(),
                unavailable_since=job.unavailable_since,
                made_progress=control.made_progress,
                requested_wait_seconds=error.retry_after_seconds,
            )
        if plan is None:
            return False
        logger.info("pull postponed", extra={"job": job.id, "reason": error.message})
        waiting = {
            "attempts": job.attempts - 1,  # the worker is well, so this attempt does not count
            **fields,
            "note": f"{error.message}; the pull will be retried",
            "not_before": plan.not_before,
            "unavailable_since": plan.unavailable_since,
        }
        _retry_on_redis_errors(lambda: self._job_store.put_back(job, owner, **waiting))
        return True

    def _remove_partials(self, job: PullJob, fields: Mapping[str, Any]) -> None:
        # Not the job in Redis: a client may have deleted that already.
        ended = msgspec.structs.replace(job, files=fields["files"])
        _retry_on_redis_errors(lambda: remove_partials(self._store, self._job_store, ended))

    def _end(self, job: PullJob, owner: str, state: JobState, fields: dict[str, Any]) -> None:
        _retry_on_redis_errors(lambda: self._job_store.end(job, state, owner=owner, **fields))


def _translate_os_error(error: OSError, job_id: str) -> SpindllError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull("the disk is full")
    logger.error("pull failed", extra={"job": job_id}, exc_info=error)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return PullFailed("the puller may not write to the models folder; see its log")
    return InternalError("the pull failed for an internal reason; see the log of the puller")


def _retry_on_redis_errors(action: Callable[[], T]) -> T | None:
    deadline = time.monotonic() + _MAX_REDIS_OUTAGE_SECONDS
    while True:
        try:
            return action()
        except redis.RedisError:
            if time.monotonic() > deadline:
                logger.exception("the outcome of a job was not recorded: redis does not answer")
                return None
            time.sleep(_REDIS_RETRY_SECONDS)
