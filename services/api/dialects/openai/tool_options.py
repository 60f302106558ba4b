"""Which tools a chat may call, from the two forms in which OpenAI's clients ask for it."""

from __future__ import annotations

from typing import Any

from services.api.dialects.openai.schemas.chat_schema import (
    ChatCompletionRequest,
    ChatTool,
    FunctionName,
    ToolChoiceObject,
)
from services.api.generation.requests.generation_request import ToolChoice
from services.shared.errors import InvalidRequest


def select_tools(body: ChatCompletionRequest) -> list[dict[str, Any]] | None:
    """The tools that the prompt shows; None when the model shall call none.

    Tools of other types than functions, which OpenAI itself would run, are left out. InvalidRequest
    when a function is chosen that there is not.
    """
    param, choice = _find_choice(body)
    if choice == "none":
        return None
    functions = {tool["function"]["name"]: tool for tool in _list_functions(body)}
    chosen = _find_names(choice)
    unknown = [name for name in chosen or () if name not in functions]
    if unknown:
        raise InvalidRequest(f"{param} names no function of the request: {unknown[0]}", param=param)
    return [functions[name] for name in functions if chosen is None or name in chosen] or None


def find_tool_choice(body: ChatCompletionRequest) -> ToolChoice:
    """Whether the model must call one of the tools that `select_tools` leaves."""
    _, choice = _find_choice(body)
    if isinstance(choice, ToolChoiceObject) and choice.allowed_tools is not None:
        choice = choice.allowed_tools.mode
    is_free = choice in (None, "auto", "none")
    return ToolChoice.AUTO if is_free else ToolChoice.REQUIRED


def names_function(body: ChatCompletionRequest) -> bool:
    """Whether the client names the one function to call."""
    _, choice = _find_choice(body)
    return isinstance(choice, FunctionName) or (
        isinstance(choice, ToolChoiceObject) and choice.function is not None
    )


_Choice = str | ToolChoiceObject | FunctionName | None


def _find_choice(body: ChatCompletionRequest) -> tuple[str, _Choice]:
    if body.functions:
        return "function_call", body.function_call
    return "tool_choice", body.tool_choice


def _list_functions(body: ChatCompletionRequest) -> list[dict[str, Any]]:
    old = [ChatTool(type="function", function=function) for function in body.functions or ()]
    tools = [*old, *(tool for tool in body.tools or () if tool.function is not None)]
    return [tool.model_dump(exclude_none=True) for tool in tools]


def _find_names(choice: _Choice) -> list[str] | None:
    """The functions that the choice leaves; None for all."""
    if isinstance(choice, ToolChoiceObject) and choice.allowed_tools is not None:
        return [tool.function.name for tool in choice.allowed_tools.tools]
    if isinstance(choice, ToolChoiceObject):
        choice = choice.function
    return [choice.name] if isinstance(choice, FunctionName) else None
