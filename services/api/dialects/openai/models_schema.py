"""How models look over HTTP, and what may be said about loading one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from pydantic import Field

from protos import engine_pb2
from services.api.dialects.openai.generation_options import Request, Seconds
from services.shared.store.manifest import Manifest

_HIDDEN = frozenset({"pid"})  # nobody's business outside

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]


class LoadOptions(Request):
    """How to load; None leaves it to the model's own settings, then the engine's."""

    context_length: int | None = Field(default=None, ge=0, lt=2**31)
    gpu_layers: int | None = Field(default=None, ge=-1, lt=2**15)
    tensor_split: list[float] | None = Field(default=None, max_length=64)
    main_gpu: int | None = Field(default=None, ge=0, lt=64)
    max_sequences: int | None = Field(default=None, ge=1, le=256)
    batch_tokens: int | None = Field(default=None, ge=32, le=1 << 16)
    threads: int | None = Field(default=None, ge=0, le=1024)
    cache_type_k: CacheType | None = None
    cache_type_v: CacheType | None = None
    flash_attention: bool | None = None
    keep_alive: Seconds | None = None
    pin: bool | None = None
    priority: int | None = Field(default=None, ge=-(2**31), lt=2**31)

    def to_proto(self) -> engine_pb2.ModelSettings:
        """What was said, and nothing else."""
        said = self.model_dump(exclude_none=True)
        if "keep_alive" in said:
            said["keep_alive_seconds"] = said.pop("keep_alive")
        return engine_pb2.ModelSettings(**said)


class UnloadOptions(Request):
    """How to unload."""

    force: bool = False


def model_object(manifest: Manifest) -> dict[str, Any]:
    """One entry of `GET /v1/models`: OpenAI's fields, and what pickers and people want to know."""
    description = manifest.description
    return {
        "id": manifest.name,
        "object": "model",
        "created": int(manifest.created_at),
        "owned_by": "spindll",
        "name": manifest.name,
        "digest": manifest.digest,
        "source": manifest.source,
        "size_bytes": manifest.size_bytes,
        "format": description.format,
        "architecture": description.architecture,
        "quantization": description.quantization,
        "parameter_count": description.parameter_count,
        "context_length": description.context_length,
        "capabilities": [capability.value for capability in description.capabilities],
        "warnings": list(description.warnings),
    }


def plain(message: Message) -> dict[str, Any]:
    """A proto answer as JSON: its own field names, null for what is absent, short enum names."""
    fields: Iterable[Any] = message.DESCRIPTOR.fields  # of the C implementation's own type
    return {f.name: _field(message, f) for f in fields if f.name not in _HIDDEN}


def _field(message: Message, field: FieldDescriptor) -> Any:
    if field.has_presence and not message.HasField(field.name):
        return None
    value = getattr(message, field.name)
    return [_value(field, item) for item in value] if field.is_repeated else _value(field, value)


def _value(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is not None:
        return plain(value)
    if field.enum_type is not None:
        prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", field.enum_type.name).upper() + "_"
        name: str = field.enum_type.values_by_number[value].name
        return name.removeprefix(prefix).lower()
    return value
