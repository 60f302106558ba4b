"""Converts the public gRPC messages to the engine's messages, and results back to public ones."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from protos import engine_pb2, spindll_pb2
from services.api.access.principal import Principal
from services.api.generation.events import (
    PartEvent,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
)
from services.api.generation.request import GenerationRequest, Sampling, Stopping
from services.api.generation.usage import UsageCounter
from services.api.prompts.render import Conversation
from services.shared.errors import InvalidRequest
from services.shared.limits import PRIVATE_CACHE_KEY_BYTES
from services.shared.mlx_support import prefers_mlx
from services.shared.store.manifest import FileRole, Manifest

_DEFAULT_MAX_TOKENS = 512  # as in the original Spindll
_ROLES = frozenset({"system", "user", "assistant", "tool"})
_PRIORITIES = {
    spindll_pb2.PRIORITY_LOW: -1,
    spindll_pb2.PRIORITY_HIGH: 1,
}
_GPU_KINDS = frozenset({"cuda", "metal"})


def check_encryption_key(key: bytes) -> None:
    """InvalidRequest unless the key is empty or 32 bytes: a mistake must not turn encryption off."""
    if len(key) not in (0, PRIVATE_CACHE_KEY_BYTES):
        raise InvalidRequest(
            f"encryption_key must be empty or {PRIVATE_CACHE_KEY_BYTES} bytes, not {len(key)}",
            param="encryption_key",
        )


def messages_from_proto(messages: Sequence[spindll_pb2.Message]) -> list[dict[str, Any]]:
    """Messages as chat templates expect them: plain dictionaries without the developer role."""
    if not messages:
        raise InvalidRequest("messages must not be empty", param="messages")
    result = []
    for number, message in enumerate(messages):
        role = "system" if message.role == "developer" else message.role
        if role not in _ROLES:
            raise InvalidRequest(
                f"messages[{number}].role {message.role!r} is not supported",
                param=f"messages[{number}].role",
            )
        result.append({"role": role, "content": message.content, **_read_rest(message)})
    return result


def _read_rest(message: spindll_pb2.Message) -> dict[str, Any]:
    rest: dict[str, Any] = {"reasoning_content": message.reasoning} if message.reasoning else {}
    if message.tool_calls:
        rest["tool_calls"] = [
            {
                "type": "function",
                **({"id": call.id} if call.id else {}),
                "function": {"name": call.name, "arguments": call.arguments or "{}"},
            }
            for call in message.tool_calls
        ]
    given = {"tool_call_id": message.tool_call_id, "name": message.name}
    return {**rest, **{name: text for name, text in given.items() if text}}


def tools_from_proto(tools: Sequence[str]) -> list[dict[str, Any]] | None:
    """Tools in OpenAI's form; InvalidRequest for a text that is not the object of a function."""
    return [_read_tool(text, f"tools[{number}]") for number, text in enumerate(tools)] or None


def _read_tool(text: str, param: str) -> dict[str, Any]:
    try:
        function = json.loads(text)
    except (ValueError, RecursionError):
        function = None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InvalidRequest(f"{param} is not a JSON object with a name", param=param)
    if not isinstance(function.get("parameters") or {}, dict):
        raise InvalidRequest(f"the parameters of {param} are not a JSON schema", param=param)
    return {"type": "function", "function": function}


def chat_to_request(
    request: spindll_pb2.ChatRequest, request_id: str, principal: Principal
) -> GenerationRequest:
    """The request of a Chat call."""
    check_encryption_key(request.encryption_key)
    return _build_request(
        request,
        request_id,
        principal,
        prompt=Conversation(
            messages=messages_from_proto(request.messages),
            tools=tools_from_proto(request.tools),
            is_thinking=request.thinking if request.HasField("thinking") else None,
            reasoning_effort=request.reasoning_effort or None,
        ),
        separates_reasoning=request.separate_reasoning,
        parallel_tool_calls=(
            request.parallel_tool_calls or not request.HasField("parallel_tool_calls")
        ),
        private_cache_key=request.encryption_key,
    )


def prefill_to_request(
    request: spindll_pb2.PrefillRequest, request_id: str, principal: Principal
) -> GenerationRequest:
    """The request of a Prefill call: it computes the messages, and generates one token."""
    check_encryption_key(request.encryption_key)
    return GenerationRequest(
        id=request_id,
        model=request.model,
        principal=principal,
        prompt=Conversation(
            messages=messages_from_proto(request.messages), add_generation_prompt=False
        ),
        stopping=Stopping(max_tokens=1),
        private_cache_key=request.encryption_key,
    )


def generate_to_request(
    request: spindll_pb2.GenerateRequest, request_id: str, principal: Principal
) -> GenerationRequest:
    """The request of a Generate call."""
    return _build_request(request, request_id, principal, prompt=(request.prompt,))


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


def _build_request(
    request: spindll_pb2.ChatRequest | spindll_pb2.GenerateRequest,
    request_id: str,
    principal: Principal,
    *,
    prompt: Conversation | tuple[str, ...],
    private_cache_key: bytes = b"",
    separates_reasoning: bool = False,
    parallel_tool_calls: bool = True,
) -> GenerationRequest:
    params = request.params
    given = {field.name: value for field, value in params.ListFields()}
    max_tokens = given.get("max_tokens", _DEFAULT_MAX_TOKENS)
    return GenerationRequest(
        id=request_id,
        model=request.model,
        principal=principal,
        prompt=prompt,
        sampling=Sampling(
            **{name: given[name] for name in ("temperature", "top_p", "seed") if name in given},
            top_k=max(0, given["top_k"]) if "top_k" in given else None,
        ),
        stopping=Stopping(
            max_tokens=max_tokens if max_tokens >= 0 else None,
            strings=tuple(text for text in params.stop if text),
        ),
        private_cache_key=private_cache_key,
        separates_reasoning=separates_reasoning,
        parallel_tool_calls=parallel_tool_calls,
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
