"""GET /v1/status: what is loaded, running and queued, and the memory this takes."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from services import __version__
from services.api.admin.engine_json import message_to_dict
from services.api.dependencies import Parts, RequireUser

router = APIRouter()


@router.get("/v1/status")
async def show_status(api: Parts, _: RequireUser) -> dict[str, Any]:
    """The state of the machine; `models` has the shape it has in the original Spindll."""
    models = await api.catalog.list()
    loaded = await api.engine.calls.list_loaded()
    engine = message_to_dict(loaded)
    ready = [model["name"] for model in engine["models"] if model["state"] == "ready"]
    return {
        "status": "ok",
        "version": __version__,
        "models": {"total": len(models), "loaded": len(ready), "loaded_models": ready},
        "running": sum(m.running for m in loaded.models),
        "queued": sum(m.queued for m in loaded.models),
        "engine": engine,
    }
