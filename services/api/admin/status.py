"""GET /v1/status: what is loaded, running and queued, and the memory it takes."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from protos import engine_pb2
from services import __version__
from services.api.dependencies import Parts, RequireUser
from services.api.dialects.openai.models_schema import plain

router = APIRouter()


@router.get("/v1/status")
async def show_status(api: Parts, _: RequireUser) -> dict[str, Any]:
    """The state of the box. `models` as the original Spindll answers it; the rest is ours."""
    models = await api.catalog.models()
    loaded = await api.engine.loaded()
    ready = [m.name for m in loaded.models if m.state == engine_pb2.MODEL_STATE_READY]
    return {
        "status": "ok",
        "version": __version__,
        "models": {"total": len(models), "loaded": len(ready), "loaded_models": ready},
        "running": sum(m.running for m in loaded.models),
        "queued": sum(m.queued for m in loaded.models),
        "engine": plain(loaded),
    }
