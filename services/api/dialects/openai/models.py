"""OpenAI's model routes: GET /v1/models and GET /v1/models/{name}."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from services.api.dependencies import Parts, RequireUser
from services.api.dialects.openai.responses.models_response import model_to_details, model_to_dict

router = APIRouter()


@router.get("/v1/models")
async def list_models(api: Parts, _: RequireUser) -> dict[str, Any]:
    """Every stored model."""
    models = await api.catalog.list()
    contexts = await api.catalog.find_context_lengths(models)
    return {"object": "list", "data": [model_to_dict(m, contexts[m.name]) for m in models]}


@router.get("/v1/models/{name:path}")
async def show_model(name: str, api: Parts, _: RequireUser) -> dict[str, Any]:
    """One model, by its name or a short form of it."""
    manifest = await api.catalog.resolve(name)
    contexts = await api.catalog.find_context_lengths([manifest])
    return model_to_details(manifest, contexts[manifest.name])
