"""A conversation in the form its template understands: what it cannot show is said another way."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from services.shared.errors import InvalidRequest
from services.shared.templates.traits import TemplateTraits

Message = dict[str, Any]

# For templates that ignore `tools`; the format is the one most models have seen (Hermes).
_TOOL_PROMPT = (
    "You may call functions. Their signatures:\n<tools>\n{tools}\n</tools>\n"
    "To call one, answer with a JSON object between tags:\n"
    '<tool_call>\n{{"name": <name>, "arguments": <object>}}\n</tool_call>'
)


def canonical(
    messages: Sequence[Message],
    tools: Sequence[Message] | None,
    traits: TemplateTraits,
) -> tuple[list[Message], list[Message] | None]:
    """Messages and tools to render. Raises InvalidRequest for arguments that are no JSON object."""
    plain = [_with_arguments(m) for m in messages] if traits.arguments_as_object else [*messages]
    shown_tools = list(tools) if tools else None
    if tools and not traits.tools:
        plain = [{"role": "system", "content": _tool_prompt(tools)}, *plain]
        shown_tools = None
    if not (traits.tool_calls and traits.tool_results):
        plain = [_without_calls(m) for m in plain]
    plain = _merged_systems(plain)
    if not traits.system:
        plain = _system_into_user(plain)
    if traits.parts_only:
        plain = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in plain]
    return plain, shown_tools


def _with_arguments(message: Message) -> Message:
    """Calls with their arguments as an object instead of OpenAI's JSON text."""
    if not message.get("tool_calls"):
        return message
    calls = [
        {**call, "function": {**call["function"], "arguments": _parsed(call["function"])}}
        for call in message["tool_calls"]
    ]
    return {**message, "tool_calls": calls}


def _parsed(function: Message) -> dict[str, Any]:
    try:
        arguments = json.loads(function["arguments"] or "{}")
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        raise InvalidRequest(
            f"the arguments of the call to {function['name']!r} are not a JSON object",
            param="messages",
        )
    return arguments


def _tool_prompt(tools: Iterable[Message]) -> str:
    lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    return _TOOL_PROMPT.format(tools=lines)


def _without_calls(message: Message) -> Message:
    """Calls and results as the text a model would have written and read."""
    if message["role"] in ("tool", "function"):
        text = f"<tool_response>\n{message['content']}\n</tool_response>"
        return {"role": "user", "content": text}
    if not message.get("tool_calls"):
        return message
    calls = [_call_text(call["function"]) for call in message["tool_calls"]]
    content = "\n".join(filter(None, [message["content"], *calls]))
    return {"role": message["role"], "content": content}


def _call_text(function: Message) -> str:
    call = {"name": function["name"], "arguments": function["arguments"]}
    return f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>"


def _merged_systems(messages: list[Message]) -> list[Message]:
    """Leading system messages as one: many templates look at the first only, or reject a second."""
    count = 0
    while count < len(messages) and messages[count]["role"] == "system":
        count += 1
    if count < 2:
        return messages
    content = "\n\n".join(m["content"] for m in messages[:count])
    return [{**messages[0], "content": content}, *messages[count:]]


def _system_into_user(messages: list[Message]) -> list[Message]:
    """Each system message in front of the user message that follows it."""
    result: list[Message] = []
    held: list[str] = []
    for message in messages:
        if message["role"] == "system":
            held.append(message["content"])
        elif message["role"] == "user" and held:
            result.append({**message, "content": "\n\n".join([*held, message["content"]])})
            held = []
        else:
            result.append(message)
    if held:
        result.append({"role": "user", "content": "\n\n".join(held)})
    return result
