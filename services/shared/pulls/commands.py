"""What people may ask of pull jobs: start, pause, resume, cancel, retry, reorder, forget.

Each answer is the job as it is afterwards. What a worker is running can only be wished for: the
worker sees the wish within a second, and the job's state changes then. Blocking.
"""

from __future__ import annotations

import hashlib

import msgspec
import redis

from services.shared import redis_keys
from services.shared.errors import Conflict, JobNotFound
from services.shared.pulls import lua
from services.shared.pulls.job import JobState, PullJob, StopRequest, fields_to_hash, to_hash
from services.shared.pulls.job_store import JobStore, flatten, order_key


class JobCommands:
    """The asking side of the board. Thread-safe, as its Redis client is."""

    def __init__(self, client: redis.Redis, board: JobStore) -> None:
        self._redis = client
        self._board = board
        self._create = client.register_script(lua.CREATE)
        self._reopen = client.register_script(lua.REOPEN)

    def create(self, order: PullJob, *, idempotency: str | None = None) -> tuple[PullJob, bool]:
        """The job for an order and whether it is new: an order in flight is not doubled.

        `idempotency` is the principal and its Idempotency-Key in one string. The same key for
        another model is a Conflict.
        """
        key_hash = hashlib.sha256((idempotency or order.id).encode()).hexdigest()
        found, is_new = self._create(
            keys=[
                redis_keys.pull(order.id),
                redis_keys.pull_for_order(order_key(order.model, order.format)),
                redis_keys.PULLS,
                redis_keys.PULLS_ACTIVE,
                redis_keys.pull_key(key_hash),
            ],
            args=[
                order.id,
                order.created_at,
                redis_keys.PULL_KEY_SECONDS if idempotency else 0,
                *flatten(to_hash(order)),
            ],
        )
        job = self._board.get(found.decode())
        if job.model != order.model:
            raise Conflict("this Idempotency-Key was used for another model")
        return job, bool(is_new)

    def pause(self, job_id: str) -> PullJob:
        """Stop it, keep what is there. At once when queued, within a second when running."""
        if self._board.change_if(job_id, {"state": JobState.QUEUED}, {"state": JobState.PAUSED}):
            return self._board.get(job_id)
        if self._board.change_if(job_id, {"state": JobState.RUNNING}, {"requested": StopRequest.PAUSE}):
            return self._board.get(job_id)
        return self._settled(job_id, JobState.PAUSED, "paused")

    def resume(self, job_id: str) -> PullJob:
        """Queue a paused job again, or take a pause back that no worker has seen yet."""
        job = self._board.get(job_id)
        queued = {"state": JobState.QUEUED, "ticket": job.ticket + 1, "requested": None, "note": None}
        if self._board.change_if(job_id, {"state": JobState.PAUSED, "ticket": job.ticket}, queued):
            return self._board.get(job_id)
        if self._board.change_if(
            job_id, {"state": JobState.RUNNING, "requested": StopRequest.PAUSE}, {"requested": None}
        ):
            return self._board.get(job_id)
        job = self._board.get(job_id)
        if job.state.has_ended:
            raise Conflict(f"the job is {job.state.value}; retry it instead")
        return job

    def cancel(self, job_id: str) -> PullJob:
        """End it without a model. At once unless a worker has it, then within a second."""
        for state in (JobState.QUEUED, JobState.PAUSED):
            if self._board.end(
                self._board.get(job_id), JobState.CANCELLED, expect={"state": state}
            ):
                return self._board.get(job_id)
        if self._board.change_if(job_id, {"state": JobState.RUNNING}, {"requested": StopRequest.CANCEL}):
            return self._board.get(job_id)
        return self._settled(job_id, JobState.CANCELLED, "cancelled")

    def retry(self, job_id: str) -> PullJob:
        """Queue a failed or cancelled job again; Conflict while another fetches the same model."""
        job = self._board.get(job_id)
        if job.state not in (JobState.FAILED, JobState.CANCELLED):
            raise Conflict(
                f"the job is {job.state.value}; only a failed or cancelled one can retry"
            )
        changed = {
            "state": JobState.QUEUED,
            "ticket": job.ticket + 1,
            "attempts": 0,
            **dict.fromkeys(("error", "error_code", "ended_at", "note", "requested")),
        }
        reopened = self._reopen(
            keys=[
                redis_keys.pull(job_id),
                redis_keys.pull_for_order(order_key(job.model, job.format)),
                redis_keys.PULLS_ACTIVE,
            ],
            args=[job_id, msgspec.json.encode(job.state), *flatten(fields_to_hash(changed))],
        )
        if not reopened:
            raise Conflict("another job fetches this model already")
        return self._board.get(job_id)

    def set_priority(self, job_id: str, priority: int) -> PullJob:
        """Higher goes first; of use while the job is queued."""
        if not self._board.change_if(job_id, {}, {"priority": priority}):
            raise JobNotFound(f"no pull job {job_id!r}")
        return self._board.get(job_id)

    def forget(self, job_id: str) -> None:
        """Remove an ended job from the list; Conflict while it has not ended."""
        if not self._board.get(job_id).state.has_ended:
            raise Conflict("the job has not ended; cancel it first")
        with self._redis.pipeline() as pipe:
            pipe.delete(redis_keys.pull(job_id))
            pipe.zrem(redis_keys.PULLS, job_id)
            pipe.execute()

    def _settled(self, job_id: str, fine: JobState, wished: str) -> PullJob:
        job = self._board.get(job_id)
        if job.state is not fine and job.state.has_ended:
            raise Conflict(f"the job is {job.state.value} and cannot be {wished}")
        return job
