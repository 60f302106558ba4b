"""How a search looks over HTTP."""

from __future__ import annotations

from typing import Any

from protos import engine_pb2
from services.api.models.fit_estimate import Box, Device, estimate_bytes, fits
from services.shared.search import SearchHit


def hit_object(hit: SearchHit, box: Box | None) -> dict[str, Any]:
    """One hit; `fits` is about the box as it would be with no other model loaded."""
    need = None
    if hit.size_bytes is not None:
        has_accelerator = box is not None and box.has_accelerator
        need = estimate_bytes(hit.size_bytes, has_accelerator=has_accelerator)
    return {
        "name": hit.name,
        "object": "search_hit",
        "source": hit.source,
        "format": hit.format,
        "quantization": hit.quantization,
        "quantizations": list(hit.quantizations),
        "size_bytes": hit.size_bytes,
        "estimated_memory_bytes": need,
        "fits": fits(hit.size_bytes, box, may_split=hit.format == "gguf").value,
        "downloads": hit.downloads,
        "gated": hit.gated,
    }


def box_of(loaded: engine_pb2.LoadedResponse) -> Box:
    """The engine's memory, as the estimate wants it."""
    devices = [
        Device(kind=d.kind, total_bytes=d.total_bytes, free_bytes=d.free_bytes)
        for d in loaded.devices
    ]
    return Box(devices=devices, budget_bytes=loaded.budget_bytes, used_bytes=loaded.used_bytes)
