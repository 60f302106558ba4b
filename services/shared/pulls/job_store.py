"""The state of pull jobs in Redis: reads for api and puller, and the changes that a worker makes.

One hash per job holds its state; RQ only carries tickets (`job_queue.py`). A change names the
fields it expects and is refused when they differ, so a pause (`commands.py`), a worker that
finishes and the puller's maintenance can race safely:

    POST ─► queued ─claim─► running ─end─► done | failed | cancelled
              ▲ ▲             │  │
              │ └─ put_back ──┘  └─pause─► paused ─resume─► queued
              └─ retry ── failed | cancelled

A running job belongs to the worker that holds its lease. A lease that expired means a dead worker:
`list_abandoned()` lists such jobs. All calls block; the api makes them in a thread.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, cast

import msgspec
import redis

from services.shared.errors import JobNotFound
from services.shared.pulls import lua
from services.shared.pulls.job import (
    STOP_REQUEST_FIELD,
    JobState,
    PullJob,
    StopRequest,
    dedup_key,
    fields_to_hash,
    flatten,
    from_hash,
)
from services.shared.redis import redis_keys

logger = logging.getLogger(__name__)

LIST_LIMIT = 200
_PAGE = 100


class JobTakenOver(Exception):
    """Another worker owns the job now. The worker that gets this stops and writes no state."""


class JobStore:
    """All pull jobs. Thread-safe, as its Redis client is."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._change = client.register_script(lua.CHANGE)
        self._end = client.register_script(lua.END)

    def get(self, job_id: str) -> PullJob:
        """One job. Raises JobNotFound, also for a job that another version wrote."""
        fields = cast("dict[bytes, bytes]", self._redis.hgetall(redis_keys.pull(job_id)))
        job = _parse_job(fields) if fields else None
        if job is None:
            raise JobNotFound(f"no pull job {job_id!r}")
        return job

    def find(
        self, *, states: Iterable[JobState] = (), model: str | None = None, limit: int = LIST_LIMIT
    ) -> list[PullJob]:
        """Jobs, newest first; only those with these states and this canonical name, if given.

        Names are compared without case, but for addresses.
        """
        wanted = frozenset(states)
        ids = cast("list[bytes]", self._redis.zrevrange(redis_keys.PULLS, 0, -1))
        key = None if model is None else dedup_key(model, None)
        found: list[PullJob] = []
        # Page by page: most callers want a few of the jobs of a month.
        for start in range(0, len(ids), _PAGE):
            found += (
                job
                for job in self._get_many(ids[start : start + _PAGE])
                if (not wanted or job.state in wanted) and key in (None, dedup_key(job.model, None))
            )
            if len(found) >= limit:
                break
        return found[:limit]

    def get_many(self, job_ids: Iterable[str]) -> list[PullJob]:
        """Those of these jobs that exist, in one round trip."""
        return self._get_many(job_id.encode() for job_id in job_ids)

    def list_in_flight(self) -> list[PullJob]:
        """Every job that has not ended, oldest first."""
        ids = cast("set[bytes]", self._redis.smembers(redis_keys.PULLS_ACTIVE))
        return sorted(self._get_many(ids), key=lambda job: (job.created_at, job.id))

    def find_loading_job(self, model: str) -> PullJob | None:
        """The job in flight for a model (canonical name), whatever its format."""
        keys = [dedup_key(model, None), dedup_key(model, "gguf"), dedup_key(model, "mlx")]
        found = cast(
            "list[bytes | None]", self._redis.mget([redis_keys.pull_in_flight(k) for k in keys])
        )
        jobs = [job for job in self._get_many(i for i in found if i) if not job.state.has_ended]
        return jobs[0] if jobs else None

    def take_ended(self) -> str | None:
        """Take the id of the job that ended first since the last call; None when there is none."""
        job_id = cast("bytes | None", self._redis.lpop(redis_keys.PULLS_ENDED))
        return None if job_id is None else job_id.decode()

    def list_abandoned(self) -> list[PullJob]:
        """Running jobs whose lease has expired."""
        running = [job for job in self.list_in_flight() if job.state is JobState.RUNNING]
        return [job for job in running if not self._redis.exists(redis_keys.pull_lease(job.id))]

    def _get_many(self, ids: Iterable[bytes]) -> list[PullJob]:
        with self._redis.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hgetall(redis_keys.pull(job_id.decode()))
            return [job for fields in pipe.execute() if fields and (job := _parse_job(fields))]

    def claim(self, job_id: str, ticket: int, owner: str) -> PullJob | None:
        """Start a queued job for this owner; None when the ticket is old or another was faster."""
        try:
            job = self.get(job_id)
        except JobNotFound:
            return None
        is_ours = self.change_if(
            job_id,
            {"state": JobState.QUEUED, "ticket": ticket},
            {
                "state": JobState.RUNNING,
                "owner": owner,
                "started_at": job.started_at or time.time(),
                "attempts": job.attempts + 1,
                "note": None,
                "not_before": None,
            },
            lease=owner,
        )
        return self.get(job_id) if is_ours else None

    def report(self, job_id: str, owner: str, fields: Mapping[str, Any]) -> StopRequest | None:
        """Write fields of this owner's running job and renew its lease; a requested stop, if any.

        Raises JobTakenOver when the job no longer belongs to this owner.
        """
        expect = {"state": JobState.RUNNING, "owner": owner}
        if not self.change_if(job_id, expect, fields, lease=owner):
            raise JobTakenOver("another worker owns the job")
        requested = cast(
            "bytes | None", self._redis.hget(redis_keys.pull(job_id), STOP_REQUEST_FIELD)
        )
        return msgspec.json.decode(requested, type=StopRequest | None) if requested else None

    def put_back(self, job: PullJob, owner: str | None = None, **fields: object) -> PullJob | None:
        """Queue a running job again after its worker left or died; None when it has changed."""
        expect: dict[str, Any] = {"state": JobState.RUNNING, "ticket": job.ticket}
        if owner is not None:
            expect["owner"] = owner
        back = {"state": JobState.QUEUED, "ticket": job.ticket + 1, "owner": None, **fields}
        if not self.change_if(job.id, expect, back):
            return None
        self._redis.delete(redis_keys.pull_lease(job.id))
        return self.get(job.id)

    def pause(self, job_id: str, owner: str, **fields: object) -> bool:
        """Pause this owner's running job; False when it has changed."""
        expect = {"state": JobState.RUNNING, "owner": owner}
        paused = {
            "state": JobState.PAUSED,
            "requested": None,
            "owner": None,
            "note": None,
            **fields,
        }
        return self.change_if(job_id, expect, paused)

    def end(
        self,
        job: PullJob,
        state: JobState,
        *,
        owner: str | None = None,
        expect: Mapping[str, Any] | None = None,
        **fields: object,
    ) -> bool:
        """End a job as done, failed or cancelled; False when it is not as expected.

        `expect` are the fields it must have; by default it must be running with this ticket.
        """
        assert state.has_ended
        expected = dict(expect or {"state": JobState.RUNNING, "ticket": job.ticket})
        if owner is not None:
            expected["owner"] = owner
        changed = {
            "state": state,
            "ended_at": time.time(),
            **dict.fromkeys(("requested", "owner", "note", "not_before", "bytes_per_second")),
            # A retry needs the address of a job that failed; nothing needs that of one that is done.
            **({"address": None} if state is JobState.DONE else {}),
            **fields,
        }
        return self._end_if(job, expected, changed)

    def _end_if(self, job: PullJob, expect: Mapping[str, Any], fields: Mapping[str, Any]) -> bool:
        ended = self._end(
            keys=[
                redis_keys.pull(job.id),
                redis_keys.pull_in_flight(dedup_key(job.model, job.format)),
                redis_keys.PULLS_ACTIVE,
                redis_keys.pull_lease(job.id),
                redis_keys.PULLS,
                redis_keys.PULLS_ENDED,
            ],
            args=[
                job.id,
                redis_keys.JOB_LIFETIME_SECONDS,
                time.time() - redis_keys.JOB_LIFETIME_SECONDS,
                redis_keys.PULLS_ENDED_SECONDS,
                len(expect),
                *flatten(fields_to_hash(expect)),
                *flatten(fields_to_hash(fields)),
            ],
        )
        return bool(ended)

    def change_if(
        self,
        job_id: str,
        expect: Mapping[str, Any],
        fields: Mapping[str, Any],
        *,
        lease: str | None = None,
    ) -> bool:
        """Write fields if the job has the expected ones, and renew the lease for an owner.

        Only this module and `commands.py` call it; they know which changes of state are valid.
        """
        return bool(
            self._change(
                keys=[redis_keys.pull(job_id), redis_keys.pull_lease(job_id)],
                args=[
                    lease or "",
                    redis_keys.PULL_LEASE_SECONDS,
                    len(expect),
                    *flatten(fields_to_hash(expect)),
                    *flatten(fields_to_hash(fields)),
                ],
            )
        )


def _parse_job(fields: Mapping[Any, Any]) -> PullJob | None:
    """The job in a hash; None, with a warning, when another version wrote it."""
    try:
        return from_hash(fields)
    except msgspec.DecodeError:
        logger.warning("unknown record of a pull job skipped")
        return None


def new_job(model: str, **fields: Any) -> PullJob:
    """A new queued job for a canonical model name; it is not in Redis yet."""
    return PullJob(
        id=uuid.uuid4().hex,
        model=model,
        state=JobState.QUEUED,
        created_at=time.time(),
        ticket=1,
        **fields,
    )
