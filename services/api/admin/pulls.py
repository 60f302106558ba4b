"""Pull jobs: ask for a model, watch it come, change one's mind; and delete models.

Reading needs any key; what changes the disk or somebody's job needs the admin's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from services.api.admin.pulls_schema import PriorityRequest, PullRequest, job_object
from services.api.clients.pulls import PullQueue
from services.api.dependencies import Parts, RequireAdmin, RequireUser, body_of
from services.api.errors import body_of as error_body
from services.api.settings import ApiSettings
from services.shared.errors import SpindllError
from services.shared.model_name import ModelName
from services.shared.pulls.job import JobState, PullJob
from services.shared.store.model_store import ModelStore

router = APIRouter()

MAX_KEY_CHARS = 255


def pull_queue(api: Parts) -> PullQueue:
    """This worker's way to the jobs."""
    return api.pulls


Pulls = Annotated[PullQueue, Depends(pull_queue)]


@router.post("/v1/pulls", status_code=202)
async def start_pull(
    body: Annotated[PullRequest, Depends(body_of(PullRequest))],
    pulls: Pulls,
    principal: RequireAdmin,
    response: Response,
    idempotency_key: Annotated[str | None, Header(max_length=MAX_KEY_CHARS)] = None,
) -> dict[str, Any]:
    """Queue a pull. The same order in flight, or the same Idempotency-Key, is the same job."""
    job, _ = await pulls.start(
        str(ModelName.parse(body.model)),
        priority=body.priority,
        format=body.format,
        sha256=body.sha256,
        idempotency=f"{principal.id}\n{idempotency_key}" if idempotency_key else None,
    )
    response.headers["location"] = f"/v1/pulls/{job.id}"
    return job_object(job)


@router.get("/v1/pulls")
async def list_pulls(
    pulls: Pulls,
    _: RequireUser,
    state: Annotated[list[JobState] | None, Query()] = None,
    model: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """Jobs, newest first; of these states and this model where given."""
    name = str(ModelName.parse(model)) if model else None
    jobs = await pulls.list(states=state or (), model=name, limit=limit)
    return {"object": "list", "data": [job_object(job) for job in jobs]}


@router.get("/v1/pulls/{job_id}")
async def show_pull(job_id: str, pulls: Pulls, _: RequireUser) -> dict[str, Any]:
    """One job."""
    return job_object(await pulls.get(job_id))


@router.get("/v1/pulls/{job_id}/events")
async def watch_pull(job_id: str, pulls: Pulls, _: RequireUser) -> StreamingResponse:
    """The job as server-sent events, each time it changes, until it has ended."""
    events = pulls.watch(job_id)
    first = await anext(events)  # an unknown job is a plain 404
    return StreamingResponse(
        _as_sse(first, events),
        media_type="text/event-stream",
        headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
    )


@router.post("/v1/pulls/{job_id}/pause")
async def pause_pull(job_id: str, pulls: Pulls, _: RequireAdmin) -> dict[str, Any]:
    """Stop it and keep what is there."""
    return job_object(await pulls.pause(job_id))


@router.post("/v1/pulls/{job_id}/resume")
async def resume_pull(job_id: str, pulls: Pulls, _: RequireAdmin) -> dict[str, Any]:
    """Go on where a paused job stopped."""
    return job_object(await pulls.resume(job_id))


@router.post("/v1/pulls/{job_id}/cancel")
async def cancel_pull(job_id: str, pulls: Pulls, _: RequireAdmin) -> dict[str, Any]:
    """End it without a model."""
    return job_object(await pulls.cancel(job_id))


@router.post("/v1/pulls/{job_id}/retry")
async def retry_pull(job_id: str, pulls: Pulls, _: RequireAdmin) -> dict[str, Any]:
    """Queue a failed or cancelled job again; verified bytes are not fetched twice."""
    return job_object(await pulls.retry(job_id))


@router.post("/v1/pulls/{job_id}/priority")
async def prioritize_pull(
    job_id: str,
    body: Annotated[PriorityRequest, Depends(body_of(PriorityRequest))],
    pulls: Pulls,
    _: RequireAdmin,
) -> dict[str, Any]:
    """Higher goes first."""
    return job_object(await pulls.set_priority(job_id, body.priority))


@router.delete("/v1/pulls/{job_id}")
async def forget_pull(job_id: str, pulls: Pulls, _: RequireAdmin) -> dict[str, Any]:
    """Remove an ended job from the list; one that has not ended is cancelled instead."""
    job = await pulls.get(job_id)
    if not job.state.has_ended:
        return job_object(await pulls.cancel(job_id))
    await pulls.forget(job_id)
    return {"id": job_id, "object": "pull", "deleted": True}


@router.delete("/v1/models/{name:path}")
async def delete_model(name: str, request: Request, _: RequireAdmin) -> dict[str, Any]:
    """Forget a model and give its bytes back, as far as no other model needs them."""
    settings: ApiSettings = request.app.state.settings
    store = ModelStore(settings.models_dir)
    deleted = await asyncio.to_thread(store.delete, name)
    return {
        "id": deleted.name,
        "object": "model",
        "deleted": True,
        "freed_bytes": deleted.freed_bytes,
    }


async def _as_sse(
    first: PullJob | None, events: AsyncIterator[PullJob | None]
) -> AsyncIterator[bytes]:
    yield _event(first)
    try:
        async for job in events:
            yield _event(job)
    except SpindllError as error:
        yield b"event: error\ndata: " + msgspec.json.encode(error_body(error)) + b"\n\n"


def _event(job: PullJob | None) -> bytes:
    if job is None:
        return b": still\n\n"
    return b"event: pull\ndata: " + msgspec.json.encode(job_object(job)) + b"\n\n"
