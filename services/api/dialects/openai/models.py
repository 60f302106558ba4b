"""Models: which there are, and (for admins) what is in memory."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from protos import engine_pb2
from services.api.dependencies import Parts, RequireAdmin, RequireUser, body_of
from services.api.dialects.openai.models_schema import (
    LoadOptions,
    UnloadOptions,
    model_object,
    plain,
)

router = APIRouter()


@router.get("/v1/models")
async def list_models(api: Parts, _: RequireUser) -> dict[str, Any]:
    """Every model that can be asked."""
    models = await api.catalog.models()
    return {"object": "list", "data": [model_object(manifest) for manifest in models]}


@router.get("/v1/models/{name:path}")
async def show_model(name: str, api: Parts, _: RequireUser) -> dict[str, Any]:
    """One model, under any name it goes by."""
    return model_object(await api.catalog.resolve(name))


@router.post("/v1/models/{name:path}/plan")
async def plan_model(
    name: str,
    options: Annotated[LoadOptions, Depends(body_of(LoadOptions))],
    api: Parts,
    _: RequireAdmin,
) -> dict[str, Any]:
    """What loading would do, without doing it."""
    manifest = await api.catalog.resolve(name)
    request = engine_pb2.PlanRequest(model=manifest.name, settings=options.to_proto())
    return {"model": manifest.name, **plain(await api.engine.plan(request))}


@router.post("/v1/models/{name:path}/load")
async def load_model(
    name: str,
    options: Annotated[LoadOptions, Depends(body_of(LoadOptions))],
    api: Parts,
    _: RequireAdmin,
) -> dict[str, Any]:
    """Load, and answer when it is ready."""
    manifest = await api.catalog.resolve(name)
    request = engine_pb2.LoadRequest(model=manifest.name, settings=options.to_proto())
    return plain(await api.engine.load(request))


@router.post("/v1/models/{name:path}/unload")
async def unload_model(
    name: str,
    options: Annotated[UnloadOptions, Depends(body_of(UnloadOptions))],
    api: Parts,
    _: RequireAdmin,
) -> dict[str, Any]:
    """Give its memory back; running requests finish first unless forced."""
    manifest = await api.catalog.resolve(name)
    request = engine_pb2.UnloadRequest(model=manifest.name, force=options.force)
    return {"model": manifest.name, **plain(await api.engine.unload(request))}
