"""The body of `POST /v1/chat/completions`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from services.api.dialects.openai.schemas.generation_options import GenerationOptions
from services.api.dialects.openai.schemas.refused_fields import RefusedChatFields
from services.api.dialects.openai.schemas.thinking_options import ThinkingOptions
from services.api.generation.requests.request_checks import MAX_MESSAGES, MAX_TOOLS
from services.api.request_body import RequestBody

_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}

_THINKING_PARTS = frozenset({"thinking", "redacted_thinking", "reasoning"})


def _check_max_tokens(value: int) -> int:
    if value == 0:
        raise ValueError("must be at least 1, or -1 for no limit")
    return value


MaxTokens = Annotated[int, Field(ge=-1, lt=2**31), AfterValidator(_check_max_tokens)]


def _join_text_parts(value: object) -> object:
    """The content itself, or the joined texts of its parts; ValueError for a part without text."""
    if not isinstance(value, list):
        return value
    texts = (_read_text_part(number, part) for number, part in enumerate(value))
    return "\n".join(text for text in texts if text is not None)


def _read_text_part(number: int, part: object) -> str | None:
    """The text of a part; None for thinking, which templates leave out of earlier answers."""
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or not isinstance(kind, str):
        raise ValueError(f"part {number} is not an object with a type")
    if kind in _THINKING_PARTS:
        return None
    if kind not in _TEXT_PARTS:
        raise ValueError(f"part {number} is of type {kind!r}; only text is supported")
    text = part.get(_TEXT_PARTS[kind])
    if not isinstance(text, str):
        raise ValueError(f"part {number} has no text")
    return text


Text = Annotated[str, BeforeValidator(_join_text_parts)]


class FunctionCall(RequestBody):
    """The function of a call; `arguments` is JSON text, as the model wrote it."""

    name: str
    arguments: str = "{}"


class ToolCall(RequestBody):
    """A call in an earlier answer of the model."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


ToolCalls = Annotated[list[ToolCall], Field(max_length=MAX_TOOLS, fail_fast=True)]


class ChatMessage(RequestBody):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text | None = None
    name: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None  # another name of it
    tool_calls: ToolCalls | None = None
    function_call: FunctionCall | None = None  # OpenAI's old form of one call
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _check_content(self) -> ChatMessage:
        if self.content is None and self.role != "assistant":
            raise ValueError("content is required")
        return self


class FunctionDefinition(RequestBody):
    """A function as the prompt describes it to the model."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ChatTool(RequestBody):
    """A tool that the model may call. Types that OpenAI runs itself are accepted and ignored."""

    type: str
    function: FunctionDefinition | None = None

    @model_validator(mode="after")
    def _check_function(self) -> ChatTool:
        if self.type == "function" and self.function is None:
            raise ValueError("function is required")
        if self.type == "custom":
            raise ValueError("a tool of the type custom is not supported: use a function")
        return self


Tools = Annotated[list[ChatTool], Field(max_length=MAX_TOOLS, fail_fast=True)]


class FunctionName(RequestBody):
    """A function that is named."""

    name: str


class NamedTool(RequestBody):
    """One of the tools that are allowed."""

    type: Literal["function"]
    function: FunctionName


class AllowedTools(RequestBody):
    """Some of the tools."""

    mode: Literal["auto", "required"]
    tools: list[NamedTool] = Field(max_length=MAX_TOOLS, fail_fast=True)


class ToolChoiceObject(RequestBody):
    """A `tool_choice` that names one function, or leaves some of the tools."""

    type: Literal["function", "allowed_tools"]
    function: FunctionName | None = None
    allowed_tools: AllowedTools | None = None

    @model_validator(mode="after")
    def _check_choice(self) -> ToolChoiceObject:
        if getattr(self, self.type) is None:
            raise ValueError(f"{self.type} is required")
        return self


Functions = Annotated[list[FunctionDefinition], Field(max_length=MAX_TOOLS, fail_fast=True)]


class ChatCompletionRequest(GenerationOptions, ThinkingOptions, RefusedChatFields):
    """A conversation to continue."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)
    max_completion_tokens: MaxTokens | None = None
    max_tokens: MaxTokens | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    tools: Tools | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoiceObject | None = None
    parallel_tool_calls: bool | None = None
    functions: Functions | None = None  # OpenAI's old form of tools
    function_call: Literal["none", "auto"] | FunctionName | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None

    @model_validator(mode="after")
    def _check_consistency(self) -> ChatCompletionRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        if self.continue_final_message and self.add_generation_prompt:
            raise ValueError("continue_final_message excludes add_generation_prompt")
        if self.continue_final_message and self.messages[-1].role != "assistant":
            raise ValueError("continue_final_message needs a last message with the role assistant")
        if self.functions and self.tools:
            raise ValueError("functions and tools exclude each other: set one of them")
        # The choice of the other form would be ignored.
        if self.functions and self.tool_choice not in (None, "auto"):
            raise ValueError("tool_choice needs tools: functions have function_call")
        if not self.functions and self.function_call not in (None, "auto"):
            raise ValueError("function_call needs functions: tools have tool_choice")
        return self

    @property
    def continues_final_message(self) -> bool:
        """Whether the model continues the last message: an unfinished answer, as in llama.cpp."""
        if self.continue_final_message is not None or self.add_generation_prompt:
            return bool(self.continue_final_message)
        last = self.messages[-1]
        has_calls = bool(last.tool_calls or last.function_call)
        return last.role == "assistant" and bool(last.content) and not has_calls

    @property
    def has_functions(self) -> bool:
        """Whether calls are answered in OpenAI's old form."""
        return bool(self.functions)
