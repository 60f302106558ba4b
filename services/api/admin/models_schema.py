"""The bodies of the model routes for admins."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from protos import engine_pb2
from services.api.request_body import RequestBody, Seconds
from services.shared.limits import (
    MAX_BATCH_TOKENS,
    MAX_CONTEXT_LENGTH,
    MAX_DEVICES,
    MAX_GPU_LAYERS,
    MAX_PRIORITY,
    MAX_SEQUENCES,
    MAX_THREADS,
    MIN_BATCH_TOKENS,
    CacheType,
    KvMode,
)

MAX_NAME_CHARS = 512

_Share = Annotated[float, Field(ge=0)]


class LoadOptions(RequestBody):
    """How to load; None leaves the choice to the model's own settings, then to the engine's."""

    context_length: int | None = Field(default=None, ge=0, le=MAX_CONTEXT_LENGTH)
    gpu_layers: int | None = Field(default=None, ge=-1, le=MAX_GPU_LAYERS)
    tensor_split: list[_Share] | None = Field(default=None, max_length=MAX_DEVICES, fail_fast=True)
    main_gpu: int | None = Field(default=None, ge=0, lt=MAX_DEVICES)
    max_sequences: int | None = Field(default=None, ge=1, le=MAX_SEQUENCES)
    batch_tokens: int | None = Field(default=None, ge=MIN_BATCH_TOKENS, le=MAX_BATCH_TOKENS)
    threads: int | None = Field(default=None, ge=0, le=MAX_THREADS)
    cache_type_k: CacheType | None = None
    cache_type_v: CacheType | None = None
    kv_mode: KvMode | None = None
    flash_attention: bool | None = None
    keep_alive: Seconds | None = None
    pin: bool | None = None
    priority: int | None = Field(default=None, ge=-MAX_PRIORITY, le=MAX_PRIORITY)

    def to_proto(self) -> engine_pb2.ModelSettings:
        """The options that were given; all others are absent from the message."""
        given = self.model_dump(exclude_none=True)
        if "keep_alive" in given:
            given["keep_alive_seconds"] = given.pop("keep_alive")
        return engine_pb2.ModelSettings(**given)


class CopyRequest(RequestBody):
    """`POST /v1/models/{name}/copy`."""

    target: str = Field(min_length=1, max_length=MAX_NAME_CHARS)


class UpdateRequest(RequestBody):
    """`POST /v1/models/{name}/update`."""

    check_only: bool = False


class UnloadOptions(RequestBody):
    """How to unload."""

    force: bool = False
