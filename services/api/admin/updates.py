"""POST /v1/models/{name}/update: is there a newer version at the source, and pull it.

Only the puller reaches the source, so it makes the check; the api queues the pull.
"""

from __future__ import annotations

import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from services.api.admin.models_schema import UpdateRequest
from services.api.admin.pulls_schema import job_to_dict
from services.api.clients.search import run_update_check
from services.api.dependencies import Parts, RequireAdmin
from services.api.request_body import parse_body_as
from services.shared.errors import Conflict
from services.shared.model_name import DEFAULT_TAG, ModelName, Source
from services.shared.puller_rpc.updates import UpdateQuery
from services.shared.store.manifest import Manifest

router = APIRouter()


@router.post("/v1/models/{name:path}/update")
async def update_model(
    name: str,
    body: Annotated[UpdateRequest, Depends(parse_body_as(UpdateRequest))],
    request: Request,
    api: Parts,
    _: RequireAdmin,
) -> dict[str, Any]:
    """Compare a model with its source, and queue a pull of what is newer there.

    A model that was not pulled under this name gets 409.
    """
    manifest = await api.catalog.resolve(name)
    _require_source(manifest)
    query = UpdateQuery(id=uuid.uuid4().hex, model=manifest.name)
    answer = await run_update_check(request.app.state.redis, query)
    job = None
    if answer.is_newer and not body.check_only:
        job, _is_new = await api.pulls.start(
            manifest.name,
            priority=0,
            format=_find_pulled_format(manifest),
            sha256=None,
            idempotency=None,
        )
    return {
        "id": manifest.name,
        "object": "model.update",
        "newer": answer.is_newer,
        "version": manifest.version,
        "newest_version": answer.newest_version,
        "download_bytes": answer.download_bytes,
        "note": answer.note,
        "pull": job_to_dict(job) if job else None,
    }


def _require_source(manifest: Manifest) -> None:
    """Raise Conflict for a model that a pull of its own name would not renew."""
    if manifest.pulled_name is None:
        raise Conflict(
            f"{manifest.name!r} does not know a source with versions: it is an import, a plain"
            " download, or was pulled before versions were recorded"
        )
    if ModelName.parse(manifest.pulled_name).key != ModelName.parse(manifest.name).key:
        raise Conflict(
            f"{manifest.name!r} is a copy of {manifest.pulled_name!r}: update that, then delete"
            " the copy and make it again"
        )


def _find_pulled_format(manifest: Manifest) -> str | None:
    """The format to request, where the name alone leaves it to the platform."""
    name = ModelName.parse(manifest.name)
    is_open = name.source is Source.HUB and name.file is None and name.tag == DEFAULT_TAG
    return manifest.description.format if is_open else None
