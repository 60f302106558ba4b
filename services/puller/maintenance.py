"""Put right what a death left behind: jobs without a worker, jobs without a ticket, unused bytes.

Every change goes through the board's checks, so any number of sweeps may run at once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from services.puller.download.partial_file import Partial
from services.shared.pulls.job import JobState, PullJob
from services.shared.pulls.job_queue import JobQueue
from services.shared.pulls.job_store import JobStore
from services.shared.store.model_store import ModelStore

logger = logging.getLogger(__name__)


class Sweep:
    """The repairs. Called from the supervisor's loop only."""

    def __init__(
        self, board: JobStore, tickets: JobQueue, store: ModelStore, *, max_attempts: int
    ) -> None:
        self._board = board
        self._tickets = tickets
        self._store = store
        self._max_attempts = max_attempts
        self._without_ticket: frozenset[tuple[str, int]] = frozenset()

    def jobs(self, dead_owners: Iterable[str] = ()) -> None:
        """Queue again what lost its worker or its ticket. `dead_owners`: prefixes of owners known
        to be dead, whose leases need not run out first."""
        dead = tuple(dead_owners)
        abandoned = {job.id: job for job in self._board.abandoned()}
        for job in self._board.in_flight():
            is_dead = bool(dead) and (job.owner or "").startswith(dead)
            if job.state is JobState.RUNNING and (is_dead or job.id in abandoned):
                self._revive(job)
        self._resend_lost_tickets()

    def store(self) -> None:
        """Remove the bytes nobody will ask for again."""
        in_flight = {f.digest for job in self._board.in_flight() for f in job.files if f.digest}
        for job in self._board.find(states=[JobState.CANCELLED]):
            self._drop_partials({f.digest for f in job.files if f.digest} - in_flight)
        swept = self._store.sweep(keep=in_flight)
        if swept.files:
            logger.info("swept", extra={"files": swept.files, "bytes": swept.freed_bytes})

    def _revive(self, job: PullJob) -> None:
        if job.attempts >= self._max_attempts:
            error = f"the worker died {job.attempts} times while working on this job"
            if self._board.end(job, JobState.FAILED, error=error, error_code="worker_died"):
                logger.error("job given up", extra={"job": job.id, "model": job.model})
            return
        back = self._board.put_back(job)
        if back is not None:
            logger.warning("job queued again", extra={"job": job.id, "model": job.model})
            self._tickets.send(back)

    def _resend_lost_tickets(self) -> None:
        # Between taking a ticket and claiming its job lie milliseconds: missing twice means lost.
        waiting = self._tickets.waiting()
        queued = [job for job in self._board.in_flight() if job.state is JobState.QUEUED]
        missing = {(job.id, job.ticket): job for job in queued if job.id not in waiting}
        for key in self._without_ticket & missing.keys():
            logger.warning("ticket sent again", extra={"job": key[0]})
            self._tickets.send(missing[key])
        self._without_ticket = frozenset(missing)

    def _drop_partials(self, digests: Iterable[str]) -> None:
        for digest in digests:
            path = self._store.layout.partial(digest)
            if not path.exists():
                continue
            partial = Partial.lock(path)
            if partial is not None:  # else another job is downloading it
                partial.remove()
                partial.close()
