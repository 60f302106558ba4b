"""The engine's settings. `DATA/models.d/` holds those of single models (model_settings.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import NoDecode

from services.engine.core import CacheWrite
from services.engine.memory.budget import parse_budget, parse_cache_size
from services.shared.errors import InvalidSettings
from services.shared.limits import (
    MAX_BATCH_TOKENS,
    MAX_CONTEXT_LENGTH,
    MAX_GPU_LAYERS,
    MAX_SEQUENCES,
    MAX_THREADS,
    MIN_BATCH_TOKENS,
    QUANTIZED_CACHE_TYPES,
    CacheType,
    KvMode,
)
from services.shared.settings import SharedSettings


class EngineSettings(SharedSettings):
    """The settings of the engine front and of the runners that it starts."""

    memory_budget: str = Field(
        default="auto",
        description="Memory for models: auto, a share such as 80%, or a size such as 8G. "
        "It applies to the GPUs that llama.cpp can use; without any, to main memory.",
    )
    context_length: int = Field(
        default=8192,
        ge=0,
        le=MAX_CONTEXT_LENGTH,
        description="Tokens in a model's context, shared by its requests; at most the length it "
        "was trained for, and less where that does not fit. 0: as many as fit.",
    )
    max_sequences: int = Field(
        default=16, ge=1, le=MAX_SEQUENCES, description="Requests a model answers at the same time."
    )
    batch_tokens: int = Field(
        default=2048,
        ge=MIN_BATCH_TOKENS,
        le=MAX_BATCH_TOKENS,
        description="Maximum number of tokens in one step.",
    )
    threads: int = Field(
        default=0, ge=0, le=MAX_THREADS, description="CPU threads of one model; 0: one per core."
    )
    gpu_layers: int = Field(
        default=-1,
        ge=-1,
        le=MAX_GPU_LAYERS,
        description="Layers on the GPU; -1: as many as fit, 0: none.",
    )
    require_gpu: bool = Field(
        default=False,
        description="Load no model while no GPU can be used, instead of computing on the CPU. The "
        "GPU variants of the containers set it.",
    )
    cache_type_k: CacheType = Field(
        default="f16", description="Type of the context's keys: f16, q8_0, q4_0, ..."
    )
    cache_type_v: CacheType = Field(
        default="f16", description="Type of the context's values: f16, q8_0, q4_0, ..."
    )
    kv_mode: KvMode = Field(
        default="unified",
        description="unified: all requests of a model share one KV memory, and prompts that begin "
        "alike share its cells. split: each of `SPINDLL_MAX_SEQUENCES` has a context of its own; "
        "faster on a GPU with more than 16 long answers at a time.",
    )
    flash_attention: bool | None = Field(
        default=None, description="Flash attention; empty: where the backend supports it."
    )
    target_step_ms: float | None = Field(
        default=None,
        gt=0,
        le=10_000,
        description="While answers are generated, prompt work may lengthen a step by this many "
        "milliseconds. Empty: 16 with layers on a GPU; on a CPU 50, or the time for 64 rows, "
        "since fewer are hardly faster.",
    )
    speculate: bool = Field(
        default=True,
        description="Draft tokens from the text itself (speculative decoding) where few answers "
        "are generated and it saves time. The answers are the same without it.",
    )
    cache_disk: str = Field(
        default="auto",
        description="Disk space for computed prompts, which are kept encrypted: auto (a tenth of "
        "the disk, at most 64G), a share such as 20%, a size such as 50G, or off.",
    )
    cache_ram: str = Field(
        default="off",
        description="Memory for computed prompts, on top of the disk: off, a share of main memory, "
        "or a size. It outlives a model's unload and is lost with the machine.",
    )
    cache_ram_folder: Path = Field(
        default=Path("/dev/shm"),  # noqa: S108  a folder of our own is made in it
        description="A file system in memory (tmpfs) for `SPINDLL_CACHE_RAM`.",
    )
    cache_write: CacheWrite = Field(
        default="always",
        description="Which computed prompts are kept: always, second_use (what was asked for "
        "before), or never (what is kept is read only).",
    )
    cache_tenant_share: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="The part of that space which one tenant may fill.",
    )
    cache_pinned_share: float = Field(
        default=0.1,
        ge=0,
        le=0.5,
        description="The part of the space for computed prompts that the named prefixes of one "
        "tenant may take (POST /v1/prefixes); those of all tenants may take half of it.",
    )
    cache_min_free: str = Field(
        default="2G", description="Disk space that keeping prompts always leaves free."
    )
    max_queued: int = Field(
        default=256, ge=1, le=1 << 16, description="Requests that may wait for one model."
    )
    keep_alive_seconds: float = Field(
        default=300.0,
        allow_inf_nan=False,
        description="A model idle for longer is unloaded; negative: never.",
    )
    preload: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Models to load when the engine starts, separated by commas."
    )
    drain_seconds: float = Field(
        default=30.0,
        ge=0,
        le=3600,
        description="When the engine stops, running answers may take this long to finish.",
    )
    engine_backend: Literal["auto", "fake"] = Field(
        default="auto",
        description="auto: the backend that the model's format needs; fake: no model at all, to "
        "measure everything else.",
    )
    load_stall_seconds: float = Field(
        default=300.0, gt=0, description="A load that makes no progress for this long fails."
    )
    step_deadline_seconds: float = Field(
        default=300.0,
        gt=0,
        description="A runner whose step takes longer than this is replaced.",
    )
    beat_deadline_seconds: float = Field(
        default=15.0,
        ge=3,
        description="A runner that sends no heartbeat for this long is replaced.",
    )

    @field_validator("memory_budget")
    @classmethod
    def _check_budget(cls, value: str) -> str:
        try:
            parse_budget(value)
        except InvalidSettings as error:
            raise ValueError(error.message) from error
        return value

    @field_validator("cache_disk", "cache_ram", "cache_min_free")
    @classmethod
    def _check_cache_size(cls, value: str) -> str:
        try:
            parse_cache_size(value)
        except InvalidSettings as error:
            raise ValueError(error.message) from error
        return value

    @field_validator("flash_attention")
    @classmethod
    def _check_flash_attention(cls, value: object, info: ValidationInfo) -> object:
        if value is False and info.data.get("cache_type_v") in QUANTIZED_CACHE_TYPES:
            raise ValueError("a quantised SPINDLL_CACHE_TYPE_V needs flash attention")
        return value

    @field_validator("preload", mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(name.strip() for name in value.split(",") if name.strip())

    @property
    def model_settings_dir(self) -> Path:
        """The folder of the models' own settings, one TOML file for each."""
        return self.data_dir / "models.d"

    @property
    def cache_folder(self) -> Path:
        """The disk tier of the prompt cache."""
        return self.data_dir / "kvcache"

    @property
    def cache_secrets_folder(self) -> Path:
        """The keys of the prompt cache."""
        return self.secrets_dir / "cache"

    @property
    def estimates_path(self) -> Path:
        """The file of the memory estimates."""
        return self.data_dir / "engine" / "estimates.json"
