"""Repair what dead processes left behind: jobs without a worker or a ticket, and unused bytes.

Every change is conditional on the state in the job store, so several pullers may run this at once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from services.shared.pulls.job import JobState, PullJob
from services.shared.pulls.job_queue import JobQueue
from services.shared.pulls.job_store import JobStore
from services.shared.store.model_store import ModelStore

logger = logging.getLogger(__name__)


class Maintenance:
    """The repairs. Only the worker pool's loop calls them."""

    def __init__(
        self, job_store: JobStore, job_queue: JobQueue, store: ModelStore, *, max_attempts: int
    ) -> None:
        self._job_store = job_store
        self._job_queue = job_queue
        self._store = store
        self._max_attempts = max_attempts
        self._without_ticket: frozenset[tuple[str, int]] = frozenset()

    def requeue_jobs(self, dead_owners: Iterable[str] = ()) -> None:
        """Queue jobs again that lost their worker or their ticket.

        `dead_owners` are prefixes of lease owners that are known to be dead; their leases need not
        expire first.
        """
        dead = tuple(dead_owners)
        abandoned = {job.id: job for job in self._job_store.list_abandoned()}
        for job in self._job_store.list_in_flight():
            is_dead = bool(dead) and (job.owner or "").startswith(dead)
            if job.state is JobState.RUNNING and (is_dead or job.id in abandoned):
                self._requeue_or_fail(job)
        self._send_tickets()

    def sweep_store(self) -> None:
        """Delete the bytes that no model and no job in flight needs.

        The partial files of a cancelled or deleted job are removed when that happens, not here: a
        later job may have begun the same files since.
        """
        in_flight = {
            f.digest for job in self._job_store.list_in_flight() for f in job.files if f.digest
        }
        swept = self._store.sweep(keep=in_flight)
        if swept.files:
            logger.info(
                "unused files deleted", extra={"files": swept.files, "bytes": swept.freed_bytes}
            )

    def _requeue_or_fail(self, job: PullJob) -> None:
        if job.attempts >= self._max_attempts:
            error = f"the worker died {job.attempts} times while working on this job"
            if self._job_store.end(job, JobState.FAILED, error=error, error_code="worker_died"):
                logger.error("job given up", extra={"job": job.id, "model": job.model})
            return
        queued = self._job_store.put_back(job)
        if queued is not None:
            logger.warning("job queued again", extra={"job": job.id, "model": job.model})
            self._job_queue.send(queued)

    def _send_tickets(self) -> None:
        # A worker takes a ticket milliseconds before it claims the job. A ticket that is missing
        # in two runs in a row is therefore lost.
        waiting, now = self._job_queue.list_waiting(), time.time()
        queued = [job for job in self._job_store.list_in_flight() if job.state is JobState.QUEUED]
        missing = {
            (job.id, job.ticket): job
            for job in queued
            if job.id not in waiting and _is_due(job, now)
        }
        for job in missing.values():
            if job.not_before is not None:  # its time has come, or a client stops it
                self._job_queue.send(job)
        for key in self._without_ticket & missing.keys():
            logger.warning("ticket sent again", extra={"job": key[0]})
            self._job_queue.send(missing[key])
        self._without_ticket = frozenset(missing)


def _is_due(job: PullJob, now: float) -> bool:
    """Whether a worker should take a queued job: now, or to carry out a request to stop it."""
    return (job.not_before or 0.0) <= now or job.requested is not None
