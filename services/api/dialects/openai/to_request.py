"""Parses OpenAI's request bodies into the requests of the pipeline."""

from __future__ import annotations

import json
from typing import Any

from services.api.access.principal import Principal
from services.api.dialects.openai.schemas.chat_schema import (
    ChatCompletionRequest,
    ChatMessage,
    ToolCall,
)
from services.api.dialects.openai.schemas.completions_schema import (
    DEFAULT_MAX_TOKENS,
    CompletionRequest,
)
from services.api.dialects.openai.schemas.generation_options import GenerationOptions
from services.api.dialects.openai.tool_options import (
    find_tool_choice,
    names_function,
    select_tools,
)
from services.api.generation.requests.generation_request import (
    GenerationRequest,
    Infill,
    Lane,
    OutputFormat,
    Sampling,
    Stopping,
    StructuredOutput,
    TextOrTokens,
)
from services.api.prompts.render import Conversation
from services.shared.errors import InvalidRequest

_SAMPLING_FIELDS = (
    "temperature",
    "top_p",
    "min_p",
    "typical_p",
    "repeat_last_n",
    "presence_penalty",
    "frequency_penalty",
    "dry_multiplier",
    "dry_base",
    "dry_allowed_length",
    "xtc_probability",
    "xtc_threshold",
    "seed",
)


def chat_to_request(
    body: ChatCompletionRequest,
    response_id: str,
    principal: Principal,
    private_cache_key: bytes = b"",
) -> GenerationRequest:
    """The request of a chat completion."""
    conversation = Conversation(
        messages=[_message_to_dict(message) for message in body.messages],
        tools=select_tools(body),
        tools_field="functions" if body.has_functions else "tools",
        options=body.chat_template_kwargs or {},
        is_thinking=body.is_thinking,
        reasoning_effort=body.effort,
        add_generation_prompt=body.add_generation_prompt is not False,
        continue_final_message=body.continues_final_message,
    )
    return GenerationRequest(
        id=response_id,
        principal=principal,
        private_cache_key=private_cache_key,
        prompt=conversation,
        stopping=_build_stopping(body, body.max_completion_tokens or body.max_tokens),
        top_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        tool_choice=find_tool_choice(body),
        # The old form has room for one call, and who names a function wants one call of it.
        parallel_tool_calls=body.parallel_tool_calls is not False
        and not body.has_functions
        and not names_function(body),
        thinking_budget=body.budget,
        separates_reasoning=body.reasoning_format != "none",
        **_common_options(body),
    )


def completion_to_request(
    body: CompletionRequest,
    response_id: str,
    principal: Principal,
    private_cache_key: bytes = b"",
) -> GenerationRequest:
    """The request of a text completion."""
    max_tokens = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    return GenerationRequest(
        id=response_id,
        principal=principal,
        private_cache_key=private_cache_key,
        prompt=tuple(_build_prompt(prompt, body.suffix) for prompt in body.prompt),
        stopping=_build_stopping(body, max_tokens),
        # Without those that the client wants, the ranking needs those of the tokens alone.
        top_logprobs=0 if body.logprobs is None and body.is_ranked else body.logprobs,
        prompt_logprobs=body.wants_prompt_logprobs,
        **_common_options(body),
    )


def _build_prompt(prompt: str | list[int], suffix: str | None) -> TextOrTokens | Infill:
    if isinstance(prompt, str):
        return Infill(prompt, suffix) if suffix else prompt
    return tuple(prompt)


def _message_to_dict(message: ChatMessage) -> dict[str, Any]:
    """A message as chat templates expect it: a plain dictionary without the developer role."""
    role = "system" if message.role == "developer" else message.role
    result: dict[str, Any] = {"role": role, "content": message.content or ""}
    if message.name is not None:
        result["name"] = message.name
    reasoning = message.reasoning_content or message.reasoning
    if reasoning is not None:
        result["reasoning_content"] = reasoning
    if message.tool_call_id is not None:
        result["tool_call_id"] = message.tool_call_id
    old = [ToolCall(function=message.function_call)] if message.function_call else []
    calls = [*(message.tool_calls or ()), *old]
    if calls:
        result["tool_calls"] = [call.model_dump(exclude_none=True) for call in calls]
    return result


def _common_options(body: GenerationOptions) -> dict[str, Any]:
    return {
        "model": body.model,
        "answers_per_prompt": body.answers_per_prompt,
        "sampling": _build_sampling(body),
        "structured_output": _build_structured_output(body),
        "lane": Lane(body.lane or "interactive"),
        "deadline_seconds": body.timeout,
        "keep_alive_seconds": body.keep_alive,
        "use_cache": body.cache_prompt is not False,
    }


def _build_sampling(body: GenerationOptions) -> Sampling:
    return Sampling(
        **{name: getattr(body, name) for name in _SAMPLING_FIELDS},
        repeat_penalty=body.penalty,
        top_k=None if body.top_k is None else max(0, body.top_k),
        logit_bias=body.logit_bias or {},
    )


def _build_stopping(body: GenerationOptions, max_tokens: int | None) -> Stopping:
    return Stopping(
        max_tokens=None if max_tokens is not None and max_tokens < 0 else max_tokens,
        min_tokens=body.min_tokens or 0,
        strings=tuple(text for text in body.stop or () if text),
        token_ids=tuple(body.stop_token_ids or ()),
        ignore_eos=bool(body.ignore_eos),
    )


def _build_structured_output(body: GenerationOptions) -> StructuredOutput | None:
    """The one that is given; the schema of the body ensures that there is at most one."""
    if body.grammar is not None:
        return StructuredOutput(OutputFormat.GBNF, body.grammar, "grammar")
    if body.guided_regex is not None:
        return StructuredOutput(OutputFormat.REGEX, body.guided_regex, "guided_regex")
    if body.schema_of_answer is not None:
        name = "guided_json" if body.json_schema is None else "json_schema"
        return _schema_to_output(body.schema_of_answer, name)
    response_format = body.response_format
    if response_format is None or response_format.type == "text":
        return None
    if response_format.schema_ is not None:
        return _schema_to_output(response_format.schema_, "response_format")
    if response_format.json_schema is not None and response_format.json_schema.schema_ is not None:
        return _schema_to_output(response_format.json_schema.schema_, "response_format")
    return _schema_to_output({"type": "object"}, "response_format")


def _schema_to_output(schema: dict[str, Any] | bool, param: str) -> StructuredOutput:  # noqa: FBT001  a schema
    try:
        text = json.dumps(schema, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise InvalidRequest(f"{param} has a number that is not finite", param=param) from None
    return StructuredOutput(OutputFormat.JSON_SCHEMA, text, param)
