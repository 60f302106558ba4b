"""Commands that a client may give for pull jobs: create, pause, resume, cancel, retry, forget.

Each command returns the job as it is afterwards. A running job belongs to its worker, so pause and
cancel only record a request on it: the worker reads the request within a second and then changes
the job's state. All calls block.
"""

from __future__ import annotations

import hashlib

import msgspec
import redis

from services.shared.errors import Conflict, JobNotFound
from services.shared.pulls import lua
from services.shared.pulls.job import (
    JobState,
    PullJob,
    StopRequest,
    dedup_key,
    fields_to_hash,
    flatten,
    to_hash,
)
from services.shared.pulls.job_store import JobStore
from services.shared.redis import redis_keys

_MAX_ATTEMPTS = 5  # a worker may change the state between two looks at it


class JobCommands:
    """The client's side of the job store. Thread-safe, as its Redis client is."""

    def __init__(self, client: redis.Redis, store: JobStore) -> None:
        self._redis = client
        self._store = store
        self._create = client.register_script(lua.CREATE)
        self._reopen = client.register_script(lua.REOPEN)
        self._forget = client.register_script(lua.FORGET)

    def create(self, new: PullJob, *, idempotency: str | None = None) -> tuple[PullJob, bool]:
        """Store a new job, or find the one in flight that fetches the same; whether it is new.

        `idempotency` is the principal and its Idempotency-Key in one string. Raises Conflict when
        the same key was used for another model.
        """
        key_hash = hashlib.sha256((idempotency or new.id).encode()).hexdigest()
        found, is_new = self._create(
            keys=[
                redis_keys.pull(new.id),
                redis_keys.pull_in_flight(dedup_key(new.model, new.format)),
                redis_keys.PULLS,
                redis_keys.PULLS_ACTIVE,
                redis_keys.pull_key(key_hash),
            ],
            args=[
                new.id,
                new.created_at,
                redis_keys.PULL_KEY_SECONDS if idempotency else 0,
                *flatten(to_hash(new)),
            ],
        )
        job = self._store.get(found.decode())
        if dedup_key(job.model, None) != dedup_key(new.model, None):
            raise Conflict("this Idempotency-Key was used for another model")
        return job, bool(is_new)

    def pause(self, job_id: str) -> PullJob:
        """Stop a job and keep its bytes: at once when queued, within a second when running."""
        paused = {"state": JobState.PAUSED, "note": None, "not_before": None}
        request = {"requested": StopRequest.PAUSE}
        for _ in range(_MAX_ATTEMPTS):
            if self._store.change_if(
                job_id, {"state": JobState.QUEUED}, paused
            ) or self._store.change_if(job_id, {"state": JobState.RUNNING}, request):
                return self._store.get(job_id)
            job = self._get_if(job_id, JobState.PAUSED, "paused")
            if job.state is JobState.PAUSED:
                return job
        raise Conflict("the job changes its state all the time; try again")

    def resume(self, job_id: str) -> PullJob:
        """Queue a paused job again, or withdraw a pause that its worker has not read yet.

        A queued job that waits for its next attempt is queued for now.
        """
        job = self._store.get(job_id)
        queued = {
            "state": JobState.QUEUED,
            "ticket": job.ticket + 1,
            "requested": None,
            "note": None,
            "not_before": None,
        }
        is_waiting = job.state is JobState.QUEUED and job.not_before is not None
        state = JobState.QUEUED if is_waiting else JobState.PAUSED
        if self._store.change_if(job_id, {"state": state, "ticket": job.ticket}, queued):
            return self._store.get(job_id)
        if self._store.change_if(
            job_id, {"state": JobState.RUNNING, "requested": StopRequest.PAUSE}, {"requested": None}
        ):
            return self._store.get(job_id)
        job = self._store.get(job_id)
        if job.state.has_ended:
            raise Conflict(f"the job is {job.state.value}; retry it instead")
        return job

    def cancel(self, job_id: str) -> PullJob:
        """End a job without a model: within a second when a worker runs it, else at once."""
        request = {"requested": StopRequest.CANCEL}
        for _ in range(_MAX_ATTEMPTS):
            job = self._store.get(job_id)
            if any(
                self._store.end(job, JobState.CANCELLED, expect={"state": state})
                for state in (JobState.QUEUED, JobState.PAUSED)
            ) or self._store.change_if(job_id, {"state": JobState.RUNNING}, request):
                return self._store.get(job_id)
            job = self._get_if(job_id, JobState.CANCELLED, "cancelled")
            if job.state is JobState.CANCELLED:
                return job
        raise Conflict("the job changes its state all the time; try again")

    def retry(self, job_id: str) -> PullJob:
        """Queue a failed or cancelled job again.

        Raises Conflict in any other state, and while another job fetches the same model.
        """
        job = self._store.get(job_id)
        if job.state not in (JobState.FAILED, JobState.CANCELLED):
            raise Conflict(
                f"the job is {job.state.value}; only a failed or cancelled one can retry"
            )
        changed = {
            "state": JobState.QUEUED,
            "ticket": job.ticket + 1,
            "attempts": 0,
            **dict.fromkeys(
                ("error", "error_code", "ended_at", "note", "requested")
                + ("not_before", "unavailable_since")
            ),
        }
        reopened = self._reopen(
            keys=[
                redis_keys.pull(job_id),
                redis_keys.pull_in_flight(dedup_key(job.model, job.format)),
                redis_keys.PULLS_ACTIVE,
            ],
            args=[job_id, msgspec.json.encode(job.state), *flatten(fields_to_hash(changed))],
        )
        if not reopened:
            raise Conflict("another job is already fetching this model")
        return self._store.get(job_id)

    def set_priority(self, job_id: str, priority: int) -> PullJob:
        """Set a job's priority. A higher one runs first; it matters while the job is queued."""
        if not self._store.change_if(job_id, {}, {"priority": priority}):
            raise JobNotFound(f"no pull job {job_id!r}")
        return self._store.get(job_id)

    def forget(self, job_id: str) -> None:
        """Remove an ended job from the list. Raises Conflict while it has not ended."""
        forgotten = self._forget(
            keys=[redis_keys.pull(job_id), redis_keys.PULLS],
            args=[job_id, *(msgspec.json.encode(s) for s in JobState if s.has_ended)],
        )
        if not forgotten:
            self._store.get(job_id)  # raises JobNotFound
            raise Conflict("the job has not ended; cancel it first")

    def _get_if(self, job_id: str, state: JobState, participle: str) -> PullJob:
        """The job, unless it ended in another state than this one (Conflict)."""
        job = self._store.get(job_id)
        if job.state is not state and job.state.has_ended:
            raise Conflict(f"the job is {job.state.value} and cannot be {participle}")
        return job
