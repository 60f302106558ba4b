"""Pull jobs: start one, watch it, pause, resume, cancel or retry it.

Reading needs any key; a change needs the admin key.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Header, Query, Response

from services.api.admin.pulls_schema import PriorityRequest, PullRequest, job_to_dict
from services.api.clients.pulls import PullClient
from services.api.dependencies import Parts, RequireAdmin, RequireUser
from services.api.request_body import parse_body_as
from services.api.streaming.sse import (
    EventStreamResponse,
    encode_comment,
    encode_error,
    encode_event,
)
from services.shared.errors import InvalidRequest, SpindllError
from services.shared.model_name import ModelName
from services.shared.pulls.job import JobState, PullJob

router = APIRouter()

MAX_KEY_CHARS = 255


def _get_pulls(api: Parts) -> PullClient:
    return api.pulls


Pulls = Annotated[PullClient, Depends(_get_pulls)]


@router.post("/v1/pulls", status_code=202)
async def start_pull(
    body: Annotated[PullRequest, Depends(parse_body_as(PullRequest))],
    pulls: Pulls,
    principal: RequireAdmin,
    response: Response,
    idempotency_key: Annotated[str | None, Header(max_length=MAX_KEY_CHARS)] = None,
) -> dict[str, Any]:
    """Queue a pull.

    A request equal to one that has not ended, or with an Idempotency-Key used before, returns the
    existing job.
    """
    name = ModelName.parse(body.model)
    job, _ = await pulls.start(
        str(name),
        address=name.address,
        priority=body.priority,
        format=body.format,
        sha256=body.sha256,
        idempotency=f"{principal.id}\n{idempotency_key}" if idempotency_key else None,
    )
    response.headers["location"] = f"/v1/pulls/{job.id}"
    return job_to_dict(job)


@router.get("/v1/pulls")
async def list_pulls(
    pulls: Pulls,
    _: RequireUser,
    state: Annotated[list[JobState] | None, Query()] = None,
    model: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """Jobs, newest first, filtered by state and by model where these are given."""
    name = str(ModelName.parse(model)) if model else None
    jobs = await pulls.list(states=state or (), model=name, limit=limit)
    return {"object": "list", "data": [job_to_dict(job) for job in jobs]}


@router.get("/v1/pulls/{job_id}")
async def show_pull(job_id: str, pulls: Pulls, _: RequireUser) -> dict[str, Any]:
    """One job."""
    return job_to_dict(await pulls.get(job_id))


@router.get("/v1/pulls/{job_id}/events")
async def watch_pull(job_id: str, pulls: Pulls, _: RequireUser) -> EventStreamResponse:
    """The job as server-sent events: one whenever it changes, until it has ended."""
    changes = pulls.watch(job_id)
    first = await anext(changes)  # an unknown job is an HTTP 404, not an event
    return EventStreamResponse(_encode_changes(first, changes))


@router.post("/v1/pulls/{job_id}/pause")
async def pause_pull(job_id: str, pulls: Pulls, _: RequireAdmin) -> dict[str, Any]:
    """Stop the job and keep the bytes downloaded so far."""
    return job_to_dict(await pulls.pause(job_id))


@router.post("/v1/pulls/{job_id}/resume")
async def resume_pull(job_id: str, pulls: Pulls, _: RequireAdmin) -> dict[str, Any]:
    """Continue a paused job where it stopped."""
    return job_to_dict(await pulls.resume(job_id))


@router.post("/v1/pulls/{job_id}/cancel")
async def cancel_pull(job_id: str, pulls: Pulls, _: RequireAdmin) -> dict[str, Any]:
    """End the job without storing a model."""
    return job_to_dict(await pulls.cancel(job_id))


@router.post("/v1/pulls/{job_id}/retry")
async def retry_pull(job_id: str, pulls: Pulls, _: RequireAdmin) -> dict[str, Any]:
    """Queue a failed or cancelled job again; verified bytes are not downloaded twice."""
    return job_to_dict(await pulls.retry(job_id))


@router.post("/v1/pulls/{job_id}/priority")
async def prioritize_pull(
    job_id: str,
    body: Annotated[PriorityRequest, Depends(parse_body_as(PriorityRequest))],
    pulls: Pulls,
    _: RequireAdmin,
) -> dict[str, Any]:
    """Set the priority of the job; higher priorities run first."""
    return job_to_dict(await pulls.set_priority(job_id, body.priority))


@router.delete("/v1/pulls")
async def delete_pulls(
    pulls: Pulls, _: RequireAdmin, state: Annotated[list[JobState], Query(min_length=1)]
) -> dict[str, Any]:
    """Remove all jobs that ended in these states, and the bytes they left."""
    if not all(s.has_ended for s in state):
        raise InvalidRequest("only done, failed and cancelled jobs can be deleted", param="state")
    deleted, freed_bytes = await pulls.delete_ended(state)
    return {"object": "list", "deleted": deleted, "freed_bytes": freed_bytes}


@router.delete("/v1/pulls/{job_id}")
async def delete_pull(job_id: str, pulls: Pulls, _: RequireAdmin) -> dict[str, Any]:
    """Remove an ended job and the bytes it left; one that has not ended is cancelled instead."""
    job = await pulls.get(job_id)
    if not job.state.has_ended:
        return job_to_dict(await pulls.cancel(job_id))
    freed_bytes = await pulls.delete(job_id)
    return {"id": job_id, "object": "pull", "deleted": True, "freed_bytes": freed_bytes}


async def _encode_changes(
    first: PullJob | None, changes: AsyncIterator[PullJob | None]
) -> AsyncIterator[bytes]:
    yield _encode_change(first)
    try:
        async for job in changes:
            yield _encode_change(job)
    except SpindllError as error:
        yield encode_error(error, event="error")


def _encode_change(job: PullJob | None) -> bytes:
    if job is None:
        return encode_comment("still")
    return encode_event(msgspec.json.encode(job_to_dict(job)), event="pull")
