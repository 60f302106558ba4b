"""The bodies of the pull routes, and how a pull job looks over HTTP."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from services.api.request_body import RequestBody
from services.shared.pulls.job import PullJob

MAX_PRIORITY = 1000
_SHA256 = re.compile(r"(?:sha256:)?([0-9a-fA-F]{64})")


def _normalize_sha256(text: str) -> str:
    match = _SHA256.fullmatch(text)
    if match is None:
        raise ValueError("must be 64 hexadecimal digits")
    return match[1].lower()


class PullRequest(RequestBody):
    """`POST /v1/pulls`."""

    model: str = Field(min_length=1, max_length=2048)
    priority: int = Field(default=0, ge=-MAX_PRIORITY, le=MAX_PRIORITY)
    format: Literal["gguf", "mlx"] | None = None
    sha256: Annotated[str, AfterValidator(_normalize_sha256)] | None = None


class PriorityRequest(RequestBody):
    """`POST /v1/pulls/{id}/priority`."""

    priority: int = Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)


def job_to_dict(job: PullJob) -> dict[str, Any]:
    """A job as the routes return it."""
    return {
        "id": job.id,
        "object": "pull",
        "model": job.model,
        "state": job.state.value,
        "downloaded_bytes": job.downloaded_bytes,
        "total_bytes": job.total_bytes,
        "bytes_per_second": job.bytes_per_second,
        "eta_seconds": None if job.eta_seconds is None else round(job.eta_seconds, 1),
        "error": job.error,
        "error_code": job.error_code,
        "note": job.note,
        "not_before": job.not_before,
        "requested": job.requested.value if job.requested else None,
        "warnings": list(job.warnings),
        "priority": job.priority,
        "attempts": job.attempts,
        "format": job.format,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "ended_at": job.ended_at,
        "files": [
            {
                "path": file.path,
                "digest": file.digest,
                "downloaded_bytes": file.downloaded_bytes,
                "total_bytes": file.total_bytes,
            }
            for file in job.files
        ],
    }
