"""Requests as the engine wants them: pydantic in, proto out. The only file that knows both."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from protos import engine_pb2
from services.api.dialects.openai.chat_schema import ChatRequest, Message, Tool
from services.api.dialects.openai.completions_schema import DEFAULT_MAX_TOKENS, CompletionRequest
from services.api.dialects.openai.generation_options import GenerationOptions

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
class Envelope:
    """What a submit carries beside the request itself."""

    trace_id: str
    model: str  # canonical
    principal: str
    timeout_seconds: float | None = None


def chat_submit(
    request: ChatRequest, prompt: engine_pb2.PromptText, envelope: Envelope
) -> engine_pb2.Submit:
    """A conversation, rendered, with everything that was asked about its answer."""
    submit = _submit(request, envelope)
    submit.text.CopyFrom(prompt)
    max_tokens = request.max_completion_tokens or request.max_tokens
    if max_tokens is not None:
        submit.stopping.max_tokens = max_tokens
    if request.logprobs:
        submit.top_logprobs = request.top_logprobs or 0
    return submit


def completion_submits(request: CompletionRequest, envelope: Envelope) -> list[engine_pb2.Submit]:
    """One submit a prompt."""
    submits = []
    for prompt in request.prompt:
        submit = _submit(request, envelope)
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


def template_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as chat templates know them: plain dictionaries, no developer role."""
    return [_template_message(message) for message in messages]


def template_tools(request: ChatRequest) -> list[dict[str, Any]] | None:
    """The tools the template may show: none when forbidden, one when one was chosen."""
    if not request.tools or request.tool_choice == "none":
        return None
    functions: list[Tool] = [tool for tool in request.tools if tool.function is not None]
    if request.tool_choice is not None and not isinstance(request.tool_choice, str):
        chosen = request.tool_choice.function.name
        functions = [t for t in functions if t.function is not None and t.function.name == chosen]
    return [tool.model_dump(exclude_none=True) for tool in functions] or None


def template_options(request: ChatRequest) -> dict[str, Any]:
    """Variables of the template's own that the client sets."""
    options = dict(request.chat_template_kwargs or {})
    if request.reasoning_effort is not None:
        options.setdefault("reasoning_effort", request.reasoning_effort)
        if request.reasoning_effort == "none":
            options.setdefault("enable_thinking", False)
    return options


def _template_message(message: Message) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    plain: dict[str, Any] = {"role": role, "content": message.content or ""}
    if message.name is not None:
        plain["name"] = message.name
    if message.reasoning_content is not None:
        plain["reasoning_content"] = message.reasoning_content
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        plain["tool_calls"] = [call.model_dump(exclude_none=True) for call in message.tool_calls]
    return plain


def _submit(request: GenerationOptions, envelope: Envelope) -> engine_pb2.Submit:
    submit = engine_pb2.Submit(
        trace_id=envelope.trace_id,
        model=envelope.model,
        principal=envelope.principal,
        n=request.n or 1,
        lane=_LANES[request.lane],
        no_cache=request.cache_prompt is False,
        sampling=_sampling(request),
        stopping=_stopping(request),
    )
    constraint = _constraint(request)
    if constraint is not None:
        submit.constraint.CopyFrom(constraint)
    deadlines = [s for s in (request.timeout, envelope.timeout_seconds) if s is not None]
    if deadlines:
        submit.deadline_seconds = min(deadlines)
    if request.keep_alive is not None:
        submit.keep_alive_seconds = request.keep_alive
    return submit


def _sampling(request: GenerationOptions) -> engine_pb2.Sampling:
    given = {name: getattr(request, name) for name in _PLAIN_SAMPLING}
    sampling = engine_pb2.Sampling(**{k: v for k, v in given.items() if v is not None})
    if request.top_k is not None:
        sampling.top_k = max(0, request.top_k)
    for token, bias in (request.logit_bias or {}).items():
        sampling.logit_bias[token] = bias
    return sampling


def _stopping(request: GenerationOptions) -> engine_pb2.Stopping:
    return engine_pb2.Stopping(
        min_tokens=request.min_tokens or 0,
        strings=[text for text in request.stop or () if text],
        token_ids=request.stop_token_ids or (),
        ignore_eos=bool(request.ignore_eos),
    )


def _constraint(request: GenerationOptions) -> engine_pb2.Constraint | None:
    """At most one is given: the schema checked that."""
    if request.grammar is not None:
        return engine_pb2.Constraint(gbnf=request.grammar)
    if request.guided_regex is not None:
        return engine_pb2.Constraint(regex=request.guided_regex)
    if request.json_schema is not None:
        return _json_constraint(request.json_schema)
    wanted = request.response_format
    if wanted is None or wanted.type == "text":
        return None
    if wanted.schema_ is not None:
        return _json_constraint(wanted.schema_)
    if wanted.json_schema is not None and wanted.json_schema.schema_ is not None:
        return _json_constraint(wanted.json_schema.schema_)
    return _json_constraint({"type": "object"})


def _json_constraint(schema: dict[str, Any] | bool) -> engine_pb2.Constraint:
    return engine_pb2.Constraint(json_schema=json.dumps(schema, ensure_ascii=False))
