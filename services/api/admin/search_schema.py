"""How the result of a search looks over HTTP."""

from __future__ import annotations

from typing import Any

from protos import engine_pb2
from services.api.models.fit_estimate import (
    MachineMemory,
    MemoryDevice,
    estimate_fit,
    estimate_memory_bytes,
)
from services.shared.puller_rpc.search import SearchHit


def hit_to_dict(hit: SearchHit, memory: MachineMemory | None) -> dict[str, Any]:
    """One hit; `fits` assumes that no other model is loaded."""
    need = None
    if hit.size_bytes is not None:
        has_accelerator = memory is not None and memory.has_accelerator
        need = estimate_memory_bytes(hit.size_bytes, has_accelerator=has_accelerator)
    return {
        "name": hit.name,
        "object": "search_hit",
        "source": hit.source,
        "format": hit.format,
        "quantization": hit.quantization,
        "quantizations": list(hit.quantizations),
        "size_bytes": hit.size_bytes,
        "estimated_memory_bytes": need,
        "fits": estimate_fit(hit.size_bytes, memory, may_split=hit.format == "gguf").value,
        "downloads": hit.downloads,
        "gated": hit.gated,
    }


def memory_from_proto(loaded: engine_pb2.LoadedResponse) -> MachineMemory:
    """The memory that the engine reports."""
    devices = [
        MemoryDevice(kind=d.kind, total_bytes=d.total_bytes, free_bytes=d.free_bytes)
        for d in loaded.devices
    ]
    return MachineMemory(
        devices=devices, budget_bytes=loaded.budget_bytes, used_bytes=loaded.used_bytes
    )
