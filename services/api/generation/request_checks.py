"""What is refused before a model is found and a prompt rendered."""

from __future__ import annotations

import re
from typing import Any

from services.api.generation.request import GenerationRequest, ToolChoice
from services.api.prompts.render import Conversation
from services.shared.errors import InvalidRequest
from services.shared.limits import MAX_CONSTRAINT_CHARS, MAX_FUNCTION_NAME, MAX_SUBMIT_BYTES

_FUNCTION_NAME = re.compile(rf"[\w.:/-]{{1,{MAX_FUNCTION_NAME}}}")


def check_request(request: GenerationRequest) -> None:
    """InvalidRequest for what cannot be done, or what the engine would refuse."""
    _check_size(request)
    if request.tool_choice is ToolChoice.REQUIRED and not _has_tools(request):
        raise InvalidRequest("tool_choice needs tools to choose from", param="tool_choice")
    if isinstance(request.prompt, Conversation):
        _check_names(request.prompt)


def _check_names(conversation: Conversation) -> None:
    """No form of calls can be relied on to hold other names: a call would be read as text."""
    for tool in conversation.tools or ():
        name = tool["function"]["name"]
        if not _FUNCTION_NAME.fullmatch(name):
            raise InvalidRequest(
                f"{name[:MAX_FUNCTION_NAME]!r} is no name of a function: at most "
                f"{MAX_FUNCTION_NAME} letters, digits, and _ . : / -",
                param="tools",
            )


def _has_tools(request: GenerationRequest) -> bool:
    return isinstance(request.prompt, Conversation) and bool(request.prompt.tools)


def check_size(size: int, param: str) -> None:
    """InvalidRequest for texts of so many characters that the engine would refuse them."""
    if size > MAX_SUBMIT_BYTES:
        raise InvalidRequest(
            f"{param} is too long: {size} characters, of at most {MAX_SUBMIT_BYTES}", param=param
        )


def _check_size(request: GenerationRequest) -> None:
    prompt = request.prompt
    if isinstance(prompt, Conversation):
        given = [list(prompt.messages), list(prompt.tools or ()), dict(prompt.options)]
        size = _count_chars(given)
    else:
        size = sum(map(len, prompt))
    check_size(size, request.prompt_field)
    output = request.structured_output
    if output is not None and len(output.source) > MAX_CONSTRAINT_CHARS:
        name = output.format.value
        raise InvalidRequest(
            f"the {name} is too long: {len(output.source)} characters, of at most "
            f"{MAX_CONSTRAINT_CHARS}",
            param=name,
        )


def _count_chars(value: Any) -> int:
    """The characters of all strings in a JSON value, keys included."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(len(key) + _count_chars(item) for key, item in value.items())
    return sum(map(_count_chars, value)) if isinstance(value, list) else 0
