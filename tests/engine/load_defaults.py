"""The LoadDefaults of tests that do not care how a model is loaded."""

from __future__ import annotations

from typing import Any

from services.engine.front.models.planning.load_planner import LoadDefaults


def make_load_defaults(**changes: Any) -> LoadDefaults:
    """Defaults that suit a few requests of a small model, with these fields changed."""
    fields: dict[str, Any] = {
        "context_length": 4096,
        "max_sequences": 4,
        "batch_tokens": 512,
        "threads": 1,
        "gpu_layers": -1,
        "cache_type_k": "f16",
        "kv_mode": "unified",
        "cache_type_v": "f16",
        "flash_attention": None,
        "target_step_seconds": 0.05,
        "speculate": True,
        "max_queued": 1000,
    }
    return LoadDefaults(**fields | changes)
