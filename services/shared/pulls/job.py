"""A pull job: its fields, its form in Redis, and the RQ function that runs it.

A job is one Redis hash with the fields of `PullJob`, each a JSON value. The api names the function
by its import path, so it does not import the puller; a test checks the path.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, Literal

import msgspec

from services.shared.structs import resolved

QUEUE = "pulls"
PULL_MODEL = "services.puller.jobs.pull_model"

# Fields of the Redis hash whose name differs from the attribute. The names on the right must stay:
# a job outlives an upgrade.
STOP_REQUEST_FIELD = "wish"
_HASH_NAMES = {"requested": STOP_REQUEST_FIELD}


class JobState(Enum):
    """The state of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def has_ended(self) -> bool:
        """Whether the job is over: no worker takes it up again unless a client retries it."""
        return self in (JobState.DONE, JobState.FAILED, JobState.CANCELLED)


@resolved
class StopRequest(Enum):
    """How a client wants a running job to stop; its worker reads the request within a second."""

    PAUSE = "pause"
    CANCEL = "cancel"


class FileProgress(msgspec.Struct, frozen=True, kw_only=True):
    """The progress of one file of a job."""

    path: str
    digest: str | None
    downloaded_bytes: int
    total_bytes: int


@resolved
class PullJob(msgspec.Struct, frozen=True, kw_only=True):
    """One request for a model, and its progress."""

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
    format: Literal["gguf", "mlx"] | None = None  # as requested; None: what suits the platform
    sha256: str | None = None  # as requested: the hex digest that a plain URL's file must have
    address: str | None = None  # of a plain download if it has a query; a secret, never shown
    note: str | None = None  # what a queued or running job waits for, as a sentence
    not_before: float | None = None  # a queued job is not started before this time
    unavailable_since: float | None = None  # since when its source has sent nothing
    ticket: int = 0  # number of the only ticket that may start it, see job_queue.py
    requested: StopRequest | None = None
    owner: str | None = None  # the worker that runs it, "host:pid:..."

    @property
    def eta_seconds(self) -> float | None:
        """The remaining time at the current speed; None when size or speed is unknown."""
        if self.total_bytes is None or not self.bytes_per_second:
            return None
        return (self.total_bytes - self.downloaded_bytes) / self.bytes_per_second


def ticket_id(job_id: str, ticket: int) -> str:
    """The RQ job id of a job's n-th ticket."""
    return f"{job_id}-{ticket}"


def parse_ticket_id(rq_job_id: str) -> str:
    """The id of the pull job that an RQ job id belongs to."""
    return rq_job_id.rpartition("-")[0]


def dedup_key(model: str, format: str | None) -> str:  # noqa: A002  the field's name
    """What makes two jobs equal: the canonical model name, and the requested format, if any.

    Names are compared without case, but for addresses.
    """
    name = model if "://" in model else model.lower()
    return f"{name}#{format}" if format else name


def to_hash(job: PullJob) -> dict[str, bytes]:
    """The Redis hash of a job: one JSON value per field, so a single field can be written."""
    return fields_to_hash(msgspec.structs.asdict(job))


def fields_to_hash(fields: Mapping[str, Any]) -> dict[str, bytes]:
    """Some fields of a job, encoded as in `to_hash`."""
    return {_HASH_NAMES.get(k, k): msgspec.json.encode(v) for k, v in fields.items()}


def from_hash(fields: Mapping[Any, Any]) -> PullJob:
    """The job in a hash of bytes or str. Raises msgspec.ValidationError when it is not a job."""
    names = {name: attribute for attribute, name in _HASH_NAMES.items()}
    plain = {}
    for key, value in fields.items():
        name = key.decode() if isinstance(key, bytes) else key
        plain[names.get(name, name)] = msgspec.json.decode(value)
    return msgspec.convert(plain, PullJob)


def flatten(fields: Mapping[str, bytes]) -> list[str | bytes]:
    """Hash fields as the arguments of a Lua script: name, value, name, value, ..."""
    return [part for pair in fields.items() for part in pair]
