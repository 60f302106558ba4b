"""What is refused before a model is found and a prompt rendered."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sized
from typing import Any

from services.api.generation.requests.generation_request import GenerationRequest, ToolChoice
from services.api.parse_budget import check_texts
from services.api.prompts.render import Conversation
from services.shared.errors import InvalidRequest
from services.shared.limits import (
    MAX_CONSTRAINT_CHARS,
    MAX_FUNCTION_NAME,
    MAX_STOP_CHARS,
    MAX_SUBMIT_BYTES,
)

MAX_MESSAGES = 16_384
MAX_TOOLS = 1024  # of a request; calls of a message too
MAX_EFFORT_CHARS = 64
_FUNCTION_NAME = re.compile(rf"[\w.:/-]{{1,{MAX_FUNCTION_NAME}}}")


def check_request(request: GenerationRequest) -> None:
    """InvalidRequest for what cannot be done, or what the engine would refuse."""
    _check_size(request)
    if request.tool_choice is ToolChoice.REQUIRED and not _has_tools(request):
        raise InvalidRequest("tool_choice needs tools to choose from", param="tool_choice")
    if any(len(text) > MAX_STOP_CHARS for text in request.stopping.strings):
        raise InvalidRequest(f"a stop string has at most {MAX_STOP_CHARS} characters", param="stop")
    if isinstance(request.prompt, Conversation):
        _check_conversation(request.prompt)


def check_count(entries: Sized, limit: int, param: str) -> None:
    """InvalidRequest for a list with more entries."""
    if len(entries) > limit:
        raise InvalidRequest(f"{param} has {len(entries)} entries, of at most {limit}", param=param)


def _check_conversation(conversation: Conversation) -> None:
    if len(conversation.reasoning_effort or "") > MAX_EFFORT_CHARS:
        raise InvalidRequest(
            f"reasoning_effort has at most {MAX_EFFORT_CHARS} characters", param="reasoning_effort"
        )
    check_texts(_list_arguments(conversation), "messages")
    _check_names(conversation)


def _list_arguments(conversation: Conversation) -> Iterator[str]:
    for message in conversation.messages:
        for call in message.get("tool_calls") or ():
            yield call["function"]["arguments"]


def _check_names(conversation: Conversation) -> None:
    """No form of calls can be relied on to hold other names: a call would be read as text."""
    for tool in conversation.tools or ():
        name = tool["function"]["name"]
        if not _FUNCTION_NAME.fullmatch(name):
            raise InvalidRequest(
                f"{name[:MAX_FUNCTION_NAME]!r} is no name of a function: at most "
                f"{MAX_FUNCTION_NAME} letters, digits, and _ . : / -",
                param=conversation.tools_field,
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
        size = _count_chars(list(prompt.messages), "messages")
        size += _count_chars(list(prompt.tools or ()), prompt.tools_field)
        size += _count_chars(dict(prompt.options), "chat_template_kwargs")
    else:
        size = sum(map(len, prompt))
    check_size(size, request.prompt_field)
    output = request.structured_output
    if output is not None and len(output.source) > MAX_CONSTRAINT_CHARS:
        name = output.field or output.format.value
        raise InvalidRequest(
            f"the {name} is too long: {len(output.source)} characters, of at most "
            f"{MAX_CONSTRAINT_CHARS}",
            param=name,
        )


def _count_chars(value: Any, param: str) -> int:
    """The characters of all strings in a JSON value, keys included.

    InvalidRequest for NaN and infinity, which parsers let pass: JSON has no such numbers.
    """
    count, rest = 0, [value]
    while rest:  # no recursion: how deep it is, is checked later
        value = rest.pop()
        if isinstance(value, str):
            count += len(value)
        elif isinstance(value, dict):
            count += sum(map(len, value))
            rest += value.values()
        elif isinstance(value, list):
            rest += value
        elif isinstance(value, float) and not math.isfinite(value):
            raise InvalidRequest(f"{param} has a number that is not finite", param=param)
    return count
