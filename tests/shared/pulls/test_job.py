"""What a pull job looks like in Redis. Its names must stay: a job outlives an upgrade."""

from __future__ import annotations

import msgspec
import pytest
import redis

from services.shared.errors import JobNotFound
from services.shared.pulls.commands import JobCommands
from services.shared.pulls.job import JobState, PullJob, StopRequest, from_hash, to_hash
from services.shared.pulls.job_store import JobStore, new_job
from services.shared.redis import redis_keys

STORED = {
    b"id": b'"job"',
    b"model": b'"qwen3:0.6b"',
    b"state": b'"running"',
    b"downloaded_bytes": b"5",
    b"total_bytes": b"null",
    b"error": b"null",
    b"error_code": b"null",
    b"created_at": b"1.5",
    b"started_at": b"null",
    b"ended_at": b"null",
    b"bytes_per_second": b"null",
    b"files": b"[]",
    b"attempts": b"0",
    b"priority": b"0",
    b"warnings": b"[]",
    b"format": b"null",
    b"sha256": b"null",
    b"note": b"null",
    b"ticket": b"0",
    b"wish": b'"cancel"',
    b"owner": b"null",
}
ADDED_LATER = dict.fromkeys((b"address", b"not_before", b"unavailable_since"), b"null")
JOB = PullJob(
    id="job",
    model="qwen3:0.6b",
    state=JobState.RUNNING,
    downloaded_bytes=5,
    created_at=1.5,
    requested=StopRequest.CANCEL,
)


def test_a_job_is_stored_under_the_names_of_the_first_version() -> None:
    assert {name.encode(): value for name, value in to_hash(JOB).items()} == STORED | ADDED_LATER


def test_a_stored_job_is_read() -> None:
    assert from_hash(STORED) == JOB


def test_a_job_survives_the_hash() -> None:
    job = msgspec.structs.replace(JOB, requested=None, owner="host:1:x", files=())

    assert from_hash(to_hash(job)) == job


def test_the_keys_of_jobs_have_the_names_of_the_first_version() -> None:
    assert redis_keys.pull("job") == "spindll:pull:job"
    assert redis_keys.pull_in_flight("qwen3:0.6b") == "spindll:pull_of:qwen3:0.6b"
    assert redis_keys.pull_lease("job") == "spindll:pull_lease:job"


def test_a_job_of_another_version_is_skipped(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        store = JobStore(client)
        known, _ = JobCommands(client, store).create(new_job("known:latest"))
        unknown, _ = JobCommands(client, store).create(new_job("unknown:latest"))
        client.hset(redis_keys.pull(unknown.id), "state", b'"archived"')

        assert [job.id for job in store.find()] == [known.id]
        assert [job.id for job in store.list_in_flight()] == [known.id]
        with pytest.raises(JobNotFound):
            store.get(unknown.id)
