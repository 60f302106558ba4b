"""What api and puller agree on about pull jobs: the queue, the job's path, its state in Redis.

The api enqueues by string path, so that it need not import the puller; a test checks the path.
A job's state is one Redis hash, field by field as in `PullJob`. RQ carries tickets: its job id is
`ticket_id(id, n)`, where n counts how often the job was queued, so that an old ticket is worthless.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, Literal

import msgspec

from services.shared.structs import resolved

QUEUE = "pulls"
PULL_MODEL = "services.puller.jobs.pull_model"


class JobState(Enum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def has_ended(self) -> bool:
        """No worker will touch it again by itself."""
        return self in (JobState.DONE, JobState.FAILED, JobState.CANCELLED)


@resolved
class StopRequest(Enum):
    """What somebody asked of a running job; its worker sees it within a second."""

    PAUSE = "pause"
    CANCEL = "cancel"


class FileProgress(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a job."""

    path: str
    digest: str | None
    downloaded_bytes: int
    total_bytes: int


@resolved
class PullJob(msgspec.Struct, frozen=True, kw_only=True):
    """One job as the API shows it."""

    id: str
    model: str
    state: JobState
    downloaded_bytes: int = 0
    total_bytes: int | None = None
    error: str | None = None  # a sentence, when it failed
    error_code: str | None = None
    created_at: float
    started_at: float | None = None
    ended_at: float | None = None
    bytes_per_second: float | None = None
    files: tuple[FileProgress, ...] = ()
    attempts: int = 0
    priority: int = 0  # higher first
    warnings: tuple[str, ...] = ()
    format: Literal["gguf", "mlx"] | None = None  # asked for; None: what suits the platform
    sha256: str | None = None  # asked for, hex: what a plain URL's file must hash to
    note: str | None = None  # what a running job waits for, as a sentence
    ticket: int = 0  # the RQ ticket that may start it
    requested: StopRequest | None = None
    owner: str | None = None  # the worker that runs it, "host:pid:..."

    @property
    def eta_seconds(self) -> float | None:
        """How long it will take at the present speed; None where nobody can say."""
        if self.total_bytes is None or not self.bytes_per_second:
            return None
        return (self.total_bytes - self.downloaded_bytes) / self.bytes_per_second


def ticket_id(job_id: str, ticket: int) -> str:
    """RQ's job id for the n-th queueing of a job."""
    return f"{job_id}-{ticket}"


def parse_ticket_id(rq_job_id: str) -> str:
    """The pull job an RQ job id stands for."""
    return rq_job_id.rpartition("-")[0]


def to_hash(state: PullJob) -> dict[str, bytes]:
    """The Redis hash of a state: one JSON value a field, so that fields can be written alone."""
    return fields_to_hash(msgspec.structs.asdict(state))


def fields_to_hash(fields: Mapping[str, Any]) -> dict[str, bytes]:
    """Some fields of a state, as `to_hash` writes them."""
    return {k: msgspec.json.encode(v) for k, v in fields.items()}


def from_hash(fields: Mapping[Any, Any]) -> PullJob:
    """The state of a hash, keys and values as bytes or str; ValidationError when it is not one."""
    plain = {
        (k.decode() if isinstance(k, bytes) else k): msgspec.json.decode(v)
        for k, v in fields.items()
    }
    return msgspec.convert(plain, PullJob)
