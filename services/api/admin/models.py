"""Model routes for admins: copy, delete, plan a load, load, unload."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated, Any

from fastapi import APIRouter, Depends

from services.api.admin.engine_json import message_to_dict
from services.api.admin.models_schema import CopyRequest, LoadOptions, UnloadOptions
from services.api.dependencies import Parts, RequireAdmin
from services.api.request_body import parse_body_as
from services.shared.errors import ModelNotFound, SpindllError
from services.shared.model_name import ModelName

logger = logging.getLogger(__name__)

router = APIRouter()

_UNLOAD_SECONDS = 2.0


async def _resolve_name(name: str, api: Parts, _: RequireAdmin) -> str:
    """The full name of the stored model in the path; ModelNotFound, ModelLoading."""
    return (await api.catalog.resolve(name)).name


async def _resolve_loaded_name(name: str, api: Parts, principal: RequireAdmin) -> str:
    """As `_resolve_name`, but also the name of a model that is loaded and no longer stored."""
    try:
        return await _resolve_name(name, api, principal)
    except ModelNotFound:
        canonical = str(ModelName.parse(name))
        loaded = await api.engine.calls.list_loaded()
        if canonical not in {model.name for model in loaded.models}:
            raise
        return canonical


# FastAPI resolves dependencies in the order of the parameters: an invalid body is answered first.
LoadBody = Annotated[LoadOptions, Depends(parse_body_as(LoadOptions))]
CopyBody = Annotated[CopyRequest, Depends(parse_body_as(CopyRequest))]
UnloadBody = Annotated[UnloadOptions, Depends(parse_body_as(UnloadOptions))]
StoredName = Annotated[str, Depends(_resolve_name)]
LoadedName = Annotated[str, Depends(_resolve_loaded_name)]


@router.delete("/v1/models/{name:path}")
async def delete_model(name: str, api: Parts, _: RequireAdmin) -> dict[str, Any]:
    """Delete a model, and free those of its bytes that no other model uses.

    It leaves the memory too, after its running requests.
    """
    deleted = await api.catalog.delete(name)
    try:
        # The engine goes on when this gives up: a long answer does not hold up the response.
        await asyncio.wait_for(api.engine.calls.unload(deleted.name), _UNLOAD_SECONDS)
    except (SpindllError, TimeoutError) as error:
        logger.info(
            "deleted model not unloaded yet",
            extra={"model": deleted.name, "reason": type(error).__name__},
        )
    return {
        "id": deleted.name,
        "object": "model",
        "deleted": True,
        "freed_bytes": deleted.freed_bytes,
    }


@router.post("/v1/models/{name:path}/copy")
async def copy_model(body: CopyBody, model: StoredName, api: Parts) -> dict[str, Any]:
    """Give a model another name too, at no cost of disk space."""
    copied = await api.catalog.copy(model, body.target)
    return {"id": copied.name, "object": "model", "copied_from": model}


@router.post("/v1/models/{name:path}/plan")
async def plan_model(options: LoadBody, model: StoredName, api: Parts) -> dict[str, Any]:
    """What a load would do, without doing it."""
    plan = await api.engine.calls.plan(model, options.to_proto())
    return {"model": model, **message_to_dict(plan)}


@router.post("/v1/models/{name:path}/load")
async def load_model(options: LoadBody, model: StoredName, api: Parts) -> dict[str, Any]:
    """Load a model; answers when it is ready."""
    return message_to_dict(await api.engine.calls.load(model, options.to_proto()))


@router.post("/v1/models/{name:path}/unload")
async def unload_model(options: UnloadBody, model: LoadedName, api: Parts) -> dict[str, Any]:
    """Free a model's memory; running requests finish first unless forced."""
    unloaded = await api.engine.calls.unload(model, force=options.force)
    return {"model": model, **message_to_dict(unloaded)}
