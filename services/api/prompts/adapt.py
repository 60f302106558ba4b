"""Adapts a conversation to its chat template: what the template cannot show becomes plain text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from services.shared.errors import InvalidRequest
from services.shared.templates.traits import TemplateTraits

Message = dict[str, Any]

_MAX_DEPTH = 64  # of arguments, tools and options

# For templates that ignore `tools`; the format is the one most models have seen (Hermes).
_TOOL_PROMPT = (
    "You may call functions. Their signatures:\n<tools>\n{tools}\n</tools>\n"
    "To call one, answer with a JSON object between tags:\n"
    '<tool_call>\n{{"name": <name>, "arguments": <object>}}\n</tool_call>'
)


def adapt_conversation(
    messages: Sequence[Message],
    tools: Sequence[Message] | None,
    traits: TemplateTraits,
) -> tuple[list[Message], list[Message] | None]:
    """The messages and tools to render; InvalidRequest for arguments that are no JSON object."""
    for tool in tools or ():
        check_depth(tool, "tools")
    adapted = _functions_to_tools(messages)
    if traits.arguments_as_object:
        adapted = [_parse_arguments(m) for m in adapted]
    shown_tools = list(tools) if tools else None
    if tools and not traits.tools:
        adapted = [{"role": "system", "content": _build_tool_prompt(tools)}, *adapted]
        shown_tools = None
    if not (traits.tool_calls and traits.tool_results):
        adapted = [_calls_to_text(m) for m in adapted]
    adapted = _merge_systems(adapted)
    if not traits.system:
        adapted = _move_systems_into_user(adapted)
    if traits.parts_only:
        adapted = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in adapted]
    return adapted, shown_tools


def check_depth(value: Any, param: str) -> None:
    """InvalidRequest for a JSON value that is nested more deeply than templates can follow."""
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [item for outer in level for item in _items(outer)]
        if not level:
            return
    raise InvalidRequest(f"{param} is nested more than {_MAX_DEPTH} levels deep", param=param)


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _functions_to_tools(messages: Sequence[Message]) -> list[Message]:
    """The messages with OpenAI's old role for results, `function`, as `tool`.

    The id of the call is that of the last call of this function, if there is one.
    """
    result: list[Message] = []
    ids: dict[str, str] = {}
    for message in messages:
        for call in message.get("tool_calls") or ():
            ids[call["function"]["name"]] = call.get("id", "")
        if message["role"] == "function":
            id_ = ids.get(message.get("name", ""))
            found = {"tool_call_id": id_} if id_ else {}
            result.append({**found, **message, "role": "tool"})
        else:
            result.append(message)
    return result


def _parse_arguments(message: Message) -> Message:
    """The message with the arguments of its calls as objects instead of OpenAI's JSON text."""
    if not message.get("tool_calls"):
        return message
    calls = [
        {**call, "function": {**call["function"], "arguments": _parse_object(call["function"])}}
        for call in message["tool_calls"]
    ]
    return {**message, "tool_calls": calls}


def _parse_object(function: Message) -> dict[str, Any]:
    try:
        arguments = json.loads(function["arguments"] or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise InvalidRequest(
            f"the arguments of the call to {function['name']!r} are not a JSON object",
            param="messages",
        )
    check_depth(arguments, "messages")
    return arguments


def _build_tool_prompt(tools: Iterable[Message]) -> str:
    lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    return _TOOL_PROMPT.format(tools=lines)


def _calls_to_text(message: Message) -> Message:
    """Calls as the text a model would write, and results as the text it would read."""
    if message["role"] == "tool":
        text = f"<tool_response>\n{message['content']}\n</tool_response>"
        return {"role": "user", "content": text}
    if not message.get("tool_calls"):
        return message
    calls = [_call_to_text(call["function"]) for call in message["tool_calls"]]
    content = "\n".join(filter(None, [message["content"], *calls]))
    return {"role": message["role"], "content": content}


def _call_to_text(function: Message) -> str:
    call = {"name": function["name"], "arguments": function["arguments"]}
    return f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>"


def _merge_systems(messages: list[Message]) -> list[Message]:
    """One message for the leading system messages: many templates ignore or reject a second one."""
    count = 0
    while count < len(messages) and messages[count]["role"] == "system":
        count += 1
    if count < 2:
        return messages
    content = "\n\n".join(m["content"] for m in messages[:count])
    return [{**messages[0], "content": content}, *messages[count:]]


def _move_systems_into_user(messages: list[Message]) -> list[Message]:
    """The messages with each system message moved into the user message that follows it."""
    result: list[Message] = []
    pending: list[str] = []
    for message in messages:
        if message["role"] == "system":
            pending.append(message["content"])
        elif message["role"] == "user" and pending:
            result.append({**message, "content": "\n\n".join([*pending, message["content"]])})
            pending = []
        else:
            result.append(message)
    if pending:
        result.append({"role": "user", "content": "\n\n".join(pending)})
    return result
