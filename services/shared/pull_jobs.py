"""What api and puller agree on about pull jobs: the queue, the job's path, its state in Redis.

The api enqueues by string path, so that it need not import the puller; a test checks the path.
A job's state is one Redis hash, field by field as in `PullState`; the id is RQ's job id too.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import msgspec

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


class FileProgress(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a job."""

    path: str
    digest: str | None
    downloaded_bytes: int
    total_bytes: int


class PullState(msgspec.Struct, frozen=True, kw_only=True):
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


def to_hash(state: PullState) -> dict[str, bytes]:
    """The Redis hash of a state: one JSON value a field, so that fields can be written alone."""
    return {k: msgspec.json.encode(v) for k, v in msgspec.structs.asdict(state).items()}


def from_hash(fields: dict[Any, Any]) -> PullState:
    """The state of a hash, keys and values as bytes or str; ValidationError when it is not one."""
    plain = {
        (k.decode() if isinstance(k, bytes) else k): msgspec.json.decode(v)
        for k, v in fields.items()
    }
    return msgspec.convert(plain, PullState)
