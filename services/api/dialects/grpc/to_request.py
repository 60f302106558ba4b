"""From the public gRPC messages to the requests of the pipeline.

Numbers are checked before anything is read: a message may have very many entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from protos import spindll_pb2
from services.api.access.principal import Principal
from services.api.generation.requests.generation_request import (
    GenerationRequest,
    Sampling,
    Stopping,
)
from services.api.generation.requests.request_checks import MAX_MESSAGES, MAX_TOOLS, check_count
from services.api.parse_budget import check_texts
from services.api.prompts.render import Conversation
from services.shared.errors import InvalidRequest
from services.shared.limits import MAX_STOP_STRINGS, PRIVATE_CACHE_KEY_BYTES

_DEFAULT_MAX_TOKENS = 512  # as in the original Spindll
_ROLES = frozenset({"system", "user", "assistant", "tool"})


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
    check_count(messages, MAX_MESSAGES, "messages")
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
        check_count(message.tool_calls, MAX_TOOLS, "tool_calls")
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
    check_count(tools, MAX_TOOLS, "tools")
    check_texts(tools, "tools")
    return [_read_tool(text, f"tools[{number}]") for number, text in enumerate(tools)] or None


def _read_tool(text: str, param: str) -> dict[str, Any]:
    try:
        function = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        function = None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InvalidRequest(f"{param} is not a JSON object with a name", param=param)
    if not isinstance(function.get("parameters", {}), dict | None):
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
        thinking_budget=_read_budget(request),
        parallel_tool_calls=(
            request.parallel_tool_calls or not request.HasField("parallel_tool_calls")
        ),
        private_cache_key=request.encryption_key,
    )


def _read_budget(request: spindll_pb2.ChatRequest) -> int | None:
    has_limit = request.HasField("thinking_budget") and request.thinking_budget >= 0
    return request.thinking_budget if has_limit else None


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


def _build_request(
    request: spindll_pb2.ChatRequest | spindll_pb2.GenerateRequest,
    request_id: str,
    principal: Principal,
    *,
    prompt: Conversation | tuple[str, ...],
    private_cache_key: bytes = b"",
    separates_reasoning: bool = False,
    thinking_budget: int | None = None,
    parallel_tool_calls: bool = True,
) -> GenerationRequest:
    params = request.params
    check_count(params.stop, MAX_STOP_STRINGS, "stop")
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
        thinking_budget=thinking_budget,
        parallel_tool_calls=parallel_tool_calls,
    )
