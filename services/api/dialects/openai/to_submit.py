"""Converts OpenAI's request bodies to a Conversation for the prompt and to Submits for the engine."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from protos import engine_pb2
from services.api.dialects.openai.chat_schema import ChatCompletionRequest, ChatMessage
from services.api.dialects.openai.completions_schema import DEFAULT_MAX_TOKENS, CompletionRequest
from services.api.dialects.openai.generation_options import GenerationOptions
from services.api.prompts.render import Conversation

_LANES = {
    None: engine_pb2.LANE_INTERACTIVE,
    "interactive": engine_pb2.LANE_INTERACTIVE,
    "background": engine_pb2.LANE_BACKGROUND,
    "batch": engine_pb2.LANE_BATCH,
}
_PLAIN_SAMPLING = (
    "temperature",
    "top_p",
    "min_p",
    "typical_p",
    "repeat_penalty",
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


@dataclass(frozen=True, slots=True)
class RequestContext:
    """What a submit carries in addition to the body of its request."""

    trace_id: str
    model: str  # canonical
    principal: str
    timeout_seconds: float = 0.0  # 0: no limit


def chat_to_conversation(request: ChatCompletionRequest) -> Conversation:
    """The conversation that the model's chat template renders."""
    return Conversation(
        messages=[_message_to_dict(message) for message in request.messages],
        tools=_select_tools(request),
        options=_template_options(request),
        add_generation_prompt=request.add_generation_prompt is not False,
        continue_final_message=bool(request.continue_final_message),
    )


def chat_to_submit(
    request: ChatCompletionRequest, prompt: engine_pb2.PromptText, context: RequestContext
) -> engine_pb2.Submit:
    """The submit of a conversation whose prompt has been rendered."""
    submit = _build_submit(request, context)
    submit.text.CopyFrom(prompt)
    max_tokens = request.max_completion_tokens or request.max_tokens
    if max_tokens is not None:
        submit.stopping.max_tokens = max_tokens
    if request.logprobs:
        submit.top_logprobs = request.top_logprobs or 0
    return submit


def completion_to_submits(
    request: CompletionRequest, context: RequestContext
) -> list[engine_pb2.Submit]:
    """One submit for each prompt of a text completion."""
    submits = []
    for prompt in request.prompt:
        submit = _build_submit(request, context)
        if isinstance(prompt, str):
            submit.text.pieces.add(text=prompt)
            submit.text.add_special = True
        else:
            submit.tokens.ids.extend(prompt)
        max_tokens = DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens
        submit.stopping.max_tokens = max_tokens
        if request.logprobs is not None:
            submit.top_logprobs = request.logprobs
        submit.prompt_logprobs = request.wants_prompt_logprobs
        submits.append(submit)
    return submits


def _select_tools(request: ChatCompletionRequest) -> list[dict[str, Any]] | None:
    """The tools that the template shows; `tool_choice` may exclude all, or all but one."""
    if not request.tools or request.tool_choice == "none":
        return None
    functions = [tool for tool in request.tools if tool.function is not None]
    if request.tool_choice is not None and not isinstance(request.tool_choice, str):
        chosen = request.tool_choice.function.name
        functions = [t for t in functions if t.function is not None and t.function.name == chosen]
    return [tool.model_dump(exclude_none=True) for tool in functions] or None


def _template_options(request: ChatCompletionRequest) -> dict[str, Any]:
    """The variables of the template that the client sets."""
    options = dict(request.chat_template_kwargs or {})
    if request.reasoning_effort is not None:
        options.setdefault("reasoning_effort", request.reasoning_effort)
        if request.reasoning_effort == "none":
            options.setdefault("enable_thinking", False)
    return options


def _message_to_dict(message: ChatMessage) -> dict[str, Any]:
    """A message as chat templates expect it: a plain dictionary without the developer role."""
    role = "system" if message.role == "developer" else message.role
    result: dict[str, Any] = {"role": role, "content": message.content or ""}
    if message.name is not None:
        result["name"] = message.name
    if message.reasoning_content is not None:
        result["reasoning_content"] = message.reasoning_content
    if message.tool_call_id is not None:
        result["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        result["tool_calls"] = [call.model_dump(exclude_none=True) for call in message.tool_calls]
    return result


def _build_submit(request: GenerationOptions, context: RequestContext) -> engine_pb2.Submit:
    submit = engine_pb2.Submit(
        trace_id=context.trace_id,
        model=context.model,
        principal=context.principal,
        n=request.n or 1,
        lane=_LANES[request.lane],
        no_cache=request.cache_prompt is False,
        sampling=_build_sampling(request),
        stopping=_build_stopping(request),
    )
    constraint = _build_constraint(request)
    if constraint is not None:
        submit.constraint.CopyFrom(constraint)
    deadlines = [seconds for seconds in (request.timeout, context.timeout_seconds) if seconds]
    if deadlines:
        submit.deadline_seconds = min(deadlines)
    if request.keep_alive is not None:
        submit.keep_alive_seconds = request.keep_alive
    return submit


def _build_sampling(request: GenerationOptions) -> engine_pb2.Sampling:
    given = {name: getattr(request, name) for name in _PLAIN_SAMPLING}
    sampling = engine_pb2.Sampling(**{k: v for k, v in given.items() if v is not None})
    if request.top_k is not None:
        sampling.top_k = max(0, request.top_k)
    for token, bias in (request.logit_bias or {}).items():
        sampling.logit_bias[token] = bias
    return sampling


def _build_stopping(request: GenerationOptions) -> engine_pb2.Stopping:
    return engine_pb2.Stopping(
        min_tokens=request.min_tokens or 0,
        strings=[text for text in request.stop or () if text],
        token_ids=request.stop_token_ids or (),
        ignore_eos=bool(request.ignore_eos),
    )


def _build_constraint(request: GenerationOptions) -> engine_pb2.Constraint | None:
    """The constraint, if there is one; the schema ensures that there is at most one."""
    if request.grammar is not None:
        return engine_pb2.Constraint(gbnf=request.grammar)
    if request.guided_regex is not None:
        return engine_pb2.Constraint(regex=request.guided_regex)
    if request.json_schema is not None:
        return _build_json_constraint(request.json_schema)
    response_format = request.response_format
    if response_format is None or response_format.type == "text":
        return None
    if response_format.schema_ is not None:
        return _build_json_constraint(response_format.schema_)
    if response_format.json_schema is not None and response_format.json_schema.schema_ is not None:
        return _build_json_constraint(response_format.json_schema.schema_)
    return _build_json_constraint({"type": "object"})


def _build_json_constraint(
    schema: dict[str, Any] | bool,  # noqa: FBT001, true is a JSON schema
) -> engine_pb2.Constraint:
    return engine_pb2.Constraint(json_schema=json.dumps(schema, ensure_ascii=False))
