"""GET /v1/search: models that could be pulled, and whether they would fit this box."""

from __future__ import annotations

import asyncio
import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from services.api.access.keys import Role
from services.api.admin.search_schema import box_of, hit_object
from services.api.clients.search import ask
from services.api.dependencies import ApiParts, Parts, RequireUser
from services.api.models.fit_estimate import Box
from services.shared.errors import InvalidRequest, SpindllError
from services.shared.search import MAX_HITS, MAX_TEXT, Format, SearchQuery, Sort

router = APIRouter()

_ENGINE_SECONDS = 5.0


@router.get("/v1/search")
async def search_models(
    request: Request,
    api: Parts,
    principal: RequireUser,
    q: Annotated[str, Query(min_length=1, max_length=MAX_TEXT)],
    limit: Annotated[int, Query(ge=1, le=MAX_HITS)] = 20,
    format: Annotated[Format | None, Query()] = None,  # noqa: A002  the parameter's name
    sort: Annotated[Sort, Query()] = "downloads",
) -> dict[str, Any]:
    """The hub's most downloaded repositories of that name, and an exact Ollama name."""
    text = " ".join(q.split())
    if not text or not text.isprintable():
        raise InvalidRequest("q must have something to search for", param="q")
    question = SearchQuery(id=uuid.uuid4().hex, text=text, limit=limit, format=format, sort=sort)
    answer, box = await asyncio.gather(ask(request.app.state.redis, question), _box(api))
    # The box's token may see repositories that are nobody else's business.
    hits = [hit for hit in answer.hits if principal.role is Role.ADMIN or not hit.private]
    notes = [] if box else ["the engine does not answer, so nobody knows what fits"]
    return {
        "object": "list",
        "data": [hit_object(hit, box) for hit in hits],
        "notes": [*answer.notes, *notes],
        "room_bytes": box.room_bytes if box else None,
    }


async def _box(api: ApiParts) -> Box | None:
    try:
        return box_of(await asyncio.wait_for(api.engine.loaded(), _ENGINE_SECONDS))
    except (SpindllError, TimeoutError):
        return None
