"""GET /v1/search: models that can be pulled, and whether they fit this machine."""

from __future__ import annotations

import asyncio
import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from services.api.access.keys import Role
from services.api.admin.search_schema import hit_to_dict, memory_from_proto
from services.api.clients.search import run_search
from services.api.dependencies import ApiParts, Parts, RequireUser
from services.api.models.fit_estimate import MachineMemory
from services.shared.errors import InvalidRequest, SpindllError
from services.shared.puller_rpc.search import MAX_HITS, MAX_TEXT, Format, SearchQuery, Sort

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
    """The hub's most downloaded repositories of that name, and an exact match in Ollama's registry.

    Private repositories are shown to admins only.
    """
    text = " ".join(q.split())
    if not text or not text.isprintable():
        raise InvalidRequest("q must contain a text to search for", param="q")
    query = SearchQuery(id=uuid.uuid4().hex, text=text, limit=limit, format=format, sort=sort)
    answer, memory = await asyncio.gather(
        run_search(request.app.state.redis, query), _read_memory(api)
    )
    # The owner's hub token may give access to private repositories.
    hits = [hit for hit in answer.hits if principal.role is Role.ADMIN or not hit.private]
    notes = [] if memory else ["the engine does not answer, so it is unknown what fits"]
    return {
        "object": "list",
        "data": [hit_to_dict(hit, memory) for hit in hits],
        "notes": [*answer.notes, *notes],
        "room_bytes": memory.room_bytes if memory else None,
    }


async def _read_memory(api: ApiParts) -> MachineMemory | None:
    try:
        return memory_from_proto(
            await asyncio.wait_for(api.engine.calls.list_loaded(), _ENGINE_SECONDS)
        )
    except (SpindllError, TimeoutError):
        return None
