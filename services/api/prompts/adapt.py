"""Adapts a conversation to its chat template: what the template cannot show becomes plain text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import takewhile
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
    adapted = _functions_to_tools(map(_with_plain_content, messages))
    if traits.arguments_as_object:
        adapted = [_parse_arguments(m) for m in adapted]
    shown_tools = list(tools) if tools else None
    if tools and not traits.tools:
        adapted = [{"role": "system", "content": _build_tool_prompt(tools)}, *adapted]
        shown_tools = None
    if not (traits.tool_calls and traits.tool_results):
        adapted = _all_calls_to_text(adapted)
    elif not traits.several_calls:
        adapted = _one_call_each(adapted)
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


def _with_plain_content(message: Message) -> Message:
    """The message with its content as one text: of typed parts, their texts; no content, none."""
    content = message.get("content")
    if isinstance(content, list):
        return {**message, "content": "\n".join(part.get("text", "") for part in content)}
    return message if content is not None else {**message, "content": ""}


def _functions_to_tools(messages: Iterable[Message]) -> list[Message]:
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
    call = {"name": function["name"], "arguments": _find_object(function["arguments"])}
    return f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>"


def _all_calls_to_text(messages: Iterable[Message]) -> list[Message]:
    """The messages without calls and results; a result joins the messages of the user beside it."""
    result: list[Message] = []
    was_result = False
    for message in messages:
        is_result = message["role"] == "tool"
        shown = _calls_to_text(message)
        is_after_user = bool(result) and shown["role"] == result[-1]["role"] == "user"
        if is_after_user and (is_result or was_result):  # many templates require turns to alternate
            joined = f"{result[-1]['content']}\n{shown['content']}"
            result[-1] = {**result[-1], "content": joined}
        else:
            result.append(shown)
        was_result = is_result
    return result


def _one_call_each(messages: list[Message]) -> list[Message]:
    """The messages with a message for each call, followed by the result of that call."""
    result: list[Message] = []
    position = 0
    while position < len(messages):
        message = messages[position]
        position += 1
        calls = message.get("tool_calls") or ()
        if len(calls) < 2:
            result.append(message)
            continue
        results = list(takewhile(lambda m: m["role"] == "tool", messages[position:]))
        position += len(results)
        for number, call in enumerate(calls):
            content = message["content"] if number == 0 else ""
            result.append({**message, "content": content, "tool_calls": [call]})
            result += _take_results(results, call.get("id"))
        result += results
    return result


def _take_results(results: list[Message], call_id: str | None) -> list[Message]:
    """Remove the results of one call, or without matching ids the first result."""
    found = [r for r in results if call_id is not None and r.get("tool_call_id") == call_id]
    if not found and not any(r.get("tool_call_id") for r in results):
        found = results[:1]
    results[:] = [r for r in results if not any(r is taken for taken in found)]
    return found


def _find_object(arguments: object) -> object:
    """The object that arguments are as a text, as the prompt asks for it; else they themselves."""
    found: object = None
    if isinstance(arguments, str):
        with suppress(ValueError, RecursionError):
            found = json.loads(arguments)
    if not isinstance(found, dict):
        return arguments
    check_depth(found, "messages")
    return found


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
