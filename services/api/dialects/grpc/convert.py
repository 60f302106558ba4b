"""Converts results to the public gRPC messages, and the settings of a load to the engine's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from protos import engine_pb2, spindll_pb2
from services.api.generation.answers.events import (
    PartEvent,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
)
from services.api.generation.answers.usage import UsageCounter
from services.shared.errors import InvalidRequest
from services.shared.mlx_support import prefers_mlx
from services.shared.store.manifest import FileRole, Manifest

_PRIORITIES = {
    spindll_pb2.PRIORITY_LOW: -1,
    spindll_pb2.PRIORITY_HIGH: 1,
}
_GPU_KINDS = frozenset({"cuda", "metal"})


def event_to_proto(event: TextDelta | PartEvent) -> spindll_pb2.ChatResponse | None:
    """The message for more of the answer; None for what clients need not know."""
    match event:
        case TextDelta():
            return spindll_pb2.ChatResponse(token=event.text) if event.text else None
        case ReasoningDelta():
            return spindll_pb2.ChatResponse(reasoning=event.text)
        case ToolCallStarted():
            begin = spindll_pb2.ToolCallDelta(index=event.call, id=event.id, name=event.name)
            return spindll_pb2.ChatResponse(tool_call=begin)
        case ToolCallDelta():
            more = spindll_pb2.ToolCallDelta(index=event.call, arguments=event.fragment)
            return spindll_pb2.ChatResponse(tool_call=more)
        case ToolCallEnded():
            return None


def usage_to_proto(usage: UsageCounter, *, seconds: float) -> spindll_pb2.UsageStats:
    """The usage in the last message; `seconds` is the whole time that the client waited."""
    return spindll_pb2.UsageStats(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        tokens_per_second=usage.completion_tokens / seconds if seconds > 0 else 0.0,
        reasoning_tokens=usage.reasoning_tokens,
    )


def load_settings_from_proto(request: spindll_pb2.LoadRequest) -> engine_pb2.ModelSettings:
    """How to load.

    The fields of the original have no presence: 0 means that the client set nothing, so that the
    model's own settings hold. Of GPU layers, -1 means the same.
    """
    if request.idle_reload_secs:
        raise InvalidRequest(
            "idle_reload_secs is not supported: a request loads the model again",
            param="idle_reload_secs",
        )
    settings = engine_pb2.ModelSettings()
    if request.priority in _PRIORITIES:
        settings.priority = _PRIORITIES[request.priority]
    if request.gpu_layers > 0:
        settings.gpu_layers = request.gpu_layers
    return settings


def models_to_proto(
    manifests: Iterable[Manifest], context_lengths: Mapping[str, int | None]
) -> spindll_pb2.ListResponse:
    """Every model, with the facts that model pickers show, and the context that it may use."""
    return spindll_pb2.ListResponse(
        models=[_model_to_proto(m, context_lengths[m.name] or 0) for m in manifests],
        prefer_format="mlx" if prefers_mlx() else "gguf",
    )


def status_to_proto(loaded: engine_pb2.LoadedResponse) -> spindll_pb2.StatusResponse:
    """The loaded models, the memory, and the totals of the running models."""
    return spindll_pb2.StatusResponse(
        models=[
            spindll_pb2.LoadedModel(
                name=m.name,
                memory_used=m.memory_bytes,
                gpu_layers=m.gpu_layers,
                digest=m.digest,
                context_length=m.context_length,
            )
            for m in loaded.models
            if m.state == engine_pb2.MODEL_STATE_READY
        ],
        memory=_memory_to_proto(loaded.devices),
        devices=[device.name for device in loaded.devices],
        metrics=_metrics_to_proto([m.counters for m in loaded.models]),
    )


def _model_to_proto(manifest: Manifest, context_length: int) -> spindll_pb2.ModelInfo:
    description = manifest.description
    weights = [file.path for file in manifest.files if file.role is FileRole.MODEL]
    return spindll_pb2.ModelInfo(
        name=manifest.name,
        repo=manifest.source,
        file=weights[0] if weights else "",
        quantization=description.quantization or "",
        size_bytes=manifest.size_bytes,
        digest=manifest.digest,
        model_name=manifest.name,
        architecture=description.architecture,
        context_length=context_length,
        format=description.format,
        base_model=description.base_model or "",
        display_name=manifest.name,
    )


def _memory_to_proto(devices: Iterable[engine_pb2.DeviceMemory]) -> spindll_pb2.MemoryInfo:
    memory = spindll_pb2.MemoryInfo()
    for device in devices:
        used = device.total_bytes - min(device.free_bytes, device.total_bytes)
        if device.kind in _GPU_KINDS:
            memory.total_vram += device.total_bytes
            memory.used_vram += used
            memory.available_vram += device.free_bytes
        else:
            memory.total_ram += device.total_bytes
            memory.used_ram += used
            memory.available_ram += device.free_bytes
    return memory


def _metrics_to_proto(counters: Sequence[engine_pb2.RunnerCounters]) -> spindll_pb2.EngineMetrics:
    prompt = sum(c.prompt_tokens for c in counters)
    computed = sum(c.computed_tokens for c in counters)
    completion = sum(c.completion_tokens for c in counters)
    seconds = sum(c.step_seconds for c in counters)
    return spindll_pb2.EngineMetrics(
        cache_hit_rate=1 - computed / prompt if prompt else 0.0,
        total_prompt_tokens=prompt,
        total_completion_tokens=completion,
        avg_tokens_per_second=completion / seconds if seconds else 0.0,
    )
