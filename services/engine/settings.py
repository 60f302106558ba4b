"""The engine's settings; how one model differs is in `DATA/models.d/` (model_settings.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from services.engine.core import CacheType
from services.engine.memory.budget import parse_budget
from services.shared.errors import InvalidSettings
from services.shared.limits import (
    MAX_BATCH_TOKENS,
    MAX_CONTEXT_LENGTH,
    MAX_SEQUENCES,
    MAX_THREADS,
    MIN_BATCH_TOKENS,
)
from services.shared.settings import SharedSettings


class EngineSettings(SharedSettings):
    """Of the engine front and the runners it starts."""

    memory_budget: str = Field(
        default="auto",
        description="Memory for models: auto, a share such as 80%, or a size such as 8G. "
        "Of the GPUs where there are any, else of main memory.",
    )
    context_length: int = Field(
        default=8192,
        ge=0,
        le=MAX_CONTEXT_LENGTH,
        description="Tokens a model's context holds, shared by its requests; at most what it was "
        "trained for, and less where it would not fit. 0: as many as fit.",
    )
    max_sequences: int = Field(
        default=16, ge=1, le=MAX_SEQUENCES, description="Requests a model answers at the same time."
    )
    batch_tokens: int = Field(
        default=2048,
        ge=MIN_BATCH_TOKENS,
        le=MAX_BATCH_TOKENS,
        description="Tokens computed in one step at most.",
    )
    threads: int = Field(
        default=0, ge=0, le=MAX_THREADS, description="CPU threads of one model; 0: one per core."
    )
    gpu_layers: int = Field(
        default=-1, ge=-1, description="Layers on the GPU; -1: as many as fit, 0: none."
    )
    cache_type_k: CacheType = Field(
        default="f16", description="Type of the context's keys: f16, q8_0, q4_0, ..."
    )
    cache_type_v: CacheType = Field(
        default="f16", description="Type of the context's values: f16, q8_0, q4_0, ..."
    )
    flash_attention: bool | None = Field(
        default=None, description="Flash attention; empty: where the backend can."
    )
    target_step_ms: float | None = Field(
        default=None,
        gt=0,
        le=10_000,
        description="While answers are being written, prompt work may stretch a step by so many ms. "
        "Empty: 50, or what 64 rows take: on a processor fewer are hardly faster.",
    )
    speculate: bool = Field(
        default=True,
        description="Draft tokens from the text itself where few answers are written and it pays; "
        "the text is the same without.",
    )
    max_queued: int = Field(
        default=256, ge=1, le=1 << 16, description="Requests that may wait for one model."
    )
    keep_alive_seconds: float = Field(
        default=300.0, description="A model idle for longer is unloaded; negative: never."
    )
    preload: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Models to load at start, separated by commas."
    )
    drain_seconds: float = Field(
        default=30.0,
        ge=0,
        le=3600,
        description="On stop, running answers may take this long to finish.",
    )
    engine_backend: Literal["auto", "fake"] = Field(
        default="auto",
        description="auto: what the model's format needs; fake: no model at all, to measure the "
        "rest.",
    )
    load_stall_seconds: float = Field(
        default=300.0, gt=0, description="A load without progress for this long has failed."
    )
    step_deadline_seconds: float = Field(
        default=300.0,
        gt=0,
        description="A step that takes longer is stuck: its runner is replaced.",
    )
    beat_deadline_seconds: float = Field(
        default=15.0,
        ge=3,
        description="A runner silent for this long is stuck: it is replaced.",
    )

    @field_validator("memory_budget")
    @classmethod
    def _is_a_budget(cls, value: str) -> str:
        try:
            parse_budget(value)
        except InvalidSettings as error:
            raise ValueError(error.message) from error
        return value

    @field_validator("preload", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(name.strip() for name in value.split(",") if name.strip())

    @property
    def model_settings_dir(self) -> Path:
        """One TOML file for each model that differs from these settings."""
        return self.data_dir / "models.d"

    @property
    def estimates_path(self) -> Path:
        """What models took in memory."""
        return self.data_dir / "engine" / "estimates.json"
