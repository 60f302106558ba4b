"""What the engine makes sure of while it writes an answer: its structure, or a call of a tool.

structured output            thinking, then the structure
tool_choice that forces      thinking, then calls
tools with `strict`          free text; where a call begins, the rest of the call
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from services.api.generation.requests.generation_request import (
    GenerationRequest,
    OutputFormat,
    StructuredOutput,
    ToolChoice,
)
from services.api.parsing.reasoning import describe_thinking
from services.api.parsing.reasoning_marks import ReasoningMarks
from services.api.parsing.tool_calls.base import ThinkingDialect, ToolDialect
from services.api.parsing.tool_calls.call_grammar import describe_calls, find_written
from services.api.prompts.render import Conversation
from services.shared.errors import InvalidRequest
from services.shared.store.manifest import Description

# As OpenAI defines a function whose parameters are left out.
_NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}

Thinking = tuple[ReasoningMarks, bool]  # as of `find_thinking`


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """The text where a constraint begins; the fields are those of the engine's message."""

    text: str
    thinking_start: str = ""
    thinking_end: str = ""
    is_thinking: bool = False
    only_at_start: bool = False


@dataclass(frozen=True, slots=True)
class AnswerConstraint:
    """What every answer must match; `before` is a Lark grammar of what may come first."""

    output: StructuredOutput
    before: str = ""
    trigger: Trigger | None = None  # None: from the start


def build_constraint(
    request: GenerationRequest,
    conversation: Conversation,
    dialect: ToolDialect,
    thinking: Thinking | None,
    special_tokens: Collection[str],
) -> AnswerConstraint | None:
    """The constraint of a chat; None where its answers are free.

    InvalidRequest where the model's form of calls cannot be enforced.
    """
    tools = conversation.tools or ()
    is_forced = request.tool_choice is ToolChoice.REQUIRED
    is_free = request.structured_output is None and not any(map(_is_strict, tools))
    if is_free and not is_forced:
        return None
    marks = "" if thinking is None else "".join(thinking[0].texts)
    special = find_written(dialect, special_tokens, also=marks)
    if request.structured_output is not None and not is_forced:
        # Text that is not taken apart holds the structure alone.
        may_think = request.separates_reasoning
        before = _describe_before(dialect, thinking, special, conversation) if may_think else ""
        return AnswerConstraint(request.structured_output, before)
    has_several = is_forced and request.parallel_tool_calls
    grammar = describe_calls(dialect, _read_tools(conversation), special, has_several=has_several)
    output = StructuredOutput(OutputFormat.LARK, grammar)
    if not is_forced:
        field = conversation.tools_field
        return AnswerConstraint(output, trigger=_build_trigger(dialect, thinking, field))
    before = _describe_before(dialect, thinking, special, conversation, is_call=True)
    return AnswerConstraint(output, before)


def find_special_tokens(description: Description) -> tuple[str, ...]:
    """The texts of the tokens that the engine matches with no text of a grammar."""
    ends = filter(None, (description.eos_token, *description.stop_tokens))
    # As in the engine: grammar_tokenizers.py
    marks = [t for t in description.user_defined_tokens if t.startswith("<") and t.endswith(">")]
    more = marks if description.format == "gguf" else ()
    return tuple(dict.fromkeys((*description.control_tokens, *ends, *more)))


def _describe_before(
    dialect: ToolDialect,
    thinking: Thinking | None,
    special: Collection[str],
    conversation: Conversation,
    *,
    is_call: bool = False,
) -> str:
    if isinstance(dialect, ThinkingDialect):
        return dialect.describe_before(special, is_call=is_call)
    if thinking is None:
        return ""
    marks, is_open = thinking
    if conversation.is_thinking is False and not is_open:
        return ""
    return describe_thinking(marks, special, is_open=is_open, is_call=is_call)


def _build_trigger(dialect: ToolDialect, thinking: Thinking | None, field: str) -> Trigger:
    if not dialect.trigger:
        raise InvalidRequest(
            f"strict cannot be enforced for a model that writes calls as {dialect.name}, unless a "
            "call is forced",
            param=field,
        )
    marks, is_open = thinking or (None, False)
    return Trigger(
        text=dialect.trigger,
        thinking_start=marks.start if marks else "",
        thinking_end=marks.end if marks else "",
        is_thinking=is_open,
        only_at_start=dialect.trigger.startswith("{"),
    )


def _is_strict(tool: Mapping[str, Any]) -> bool:
    return tool["function"].get("strict") is True


def _read_tools(conversation: Conversation) -> dict[str, tuple[dict[str, Any], bool]]:
    """The schema of each function, and whether it is strict."""
    found: dict[str, tuple[dict[str, Any], bool]] = {}
    param = conversation.tools_field
    for tool in conversation.tools or ():
        function = tool["function"]
        name, schema = function["name"], function.get("parameters") or _NO_PARAMETERS
        kind = schema.get("type", "object")
        if kind != "object" and not (isinstance(kind, list) and "object" in kind):
            raise InvalidRequest(f"parameters of {name!r} are not an object", param=param)
        if not isinstance(schema.get("properties") or {}, dict):
            raise InvalidRequest(f"properties of {name!r} is not an object", param=param)
        found[name] = (schema, _is_strict(tool))
    return found
