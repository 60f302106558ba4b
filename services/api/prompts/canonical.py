"""Removes from a conversation what differs from request to request without a meaning.

A prompt is found in the cache up to its first difference, and tools and system prompt come first:
one changing number there has everything after it computed again. What is done:

- The header that Claude Code writes before its system prompt, for the bills of one provider, is
  removed. Its numbers change with each request: https://github.com/anthropics/claude-code/issues/68900
- Tools are ordered by name, and the keywords of their schemas too; some clients keep both in maps
  without an order.

The order of `properties` stays: models write arguments in it, so that a field for thoughts before
the result has a meaning. The ids of calls stay too: templates that show them have rules for them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from services.api.prompts.render import Conversation

# Only its own pairs belong to it: what follows them on the same line is the system prompt's.
_PAIR = r"[ ]?cc[a-z_]{0,30}=[^;\s]{0,128}(?:;|(?=[ ]*(?:\r?\n|\Z)))"
_BILLING_HEADER = re.compile(rf"x-anthropic-billing-header:(?:{_PAIR}){{1,16}}[ ]*(?:\r?\n)*")
_TOOL_KEYS = ("type", "function")
_FUNCTION_KEYS = ("name", "description", "parameters")
_KEYWORDS = ("type", "title", "description", "properties", "required", "additionalProperties")
_SCHEMA = frozenset(
    {"items", "additionalItems", "additionalProperties", "unevaluatedItems", "contains", "not"}
    | {"unevaluatedProperties", "propertyNames", "if", "then", "else"}
)
_SCHEMAS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems", "items"})
_SCHEMAS_BY_NAME = frozenset(
    {"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"}
)
_MAX_DEPTH = 64  # of a schema; what is nested more deeply is refused later


def canonicalise(conversation: Conversation) -> Conversation:
    """The conversation as the cache should see it: its meaning is the same."""
    tools = conversation.tools
    return dataclasses.replace(
        conversation,
        messages=_remove_headers(conversation.messages),
        tools=None if tools is None else order_tools(tools),
    )


def order_tools(tools: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The tools by name, the keys of each in one order."""
    ordered = [_order_tool(tool) for tool in tools]
    return sorted(ordered, key=lambda tool: str(tool["function"]["name"]))


def _remove_headers(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages without headers in the leading system messages."""
    count = next(
        (n for n, message in enumerate(messages) if message["role"] != "system"), len(messages)
    )
    leading = [_remove_header(message) for message in messages[:count]]
    # A message that was nothing else would still be shown as an empty system prompt.
    kept = [m for m, before in zip(leading, messages, strict=False) if m is before or m["content"]]
    return [*kept, *messages[count:]] or list(messages)


def _remove_header(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    found = _BILLING_HEADER.match(content) if isinstance(content, str) else None
    if found is None or not isinstance(content, str):
        return message
    return {**message, "content": content[found.end() :]}


def _order_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = _order(tool["function"], _FUNCTION_KEYS)
    if "parameters" in function:
        function["parameters"] = _order_schema(function["parameters"], _MAX_DEPTH)
    return _order({**tool, "function": function}, _TOOL_KEYS)


def _order_schema(schema: Any, depth: int) -> Any:
    """A JSON schema with its keywords in order; values such as `default` and `enum` stay."""
    if not isinstance(schema, dict) or depth == 0:
        return schema
    ordered = _order(schema, _KEYWORDS)
    for keyword, value in ordered.items():
        if keyword in _SCHEMAS_BY_NAME and isinstance(value, dict):
            ordered[keyword] = {n: _order_schema(each, depth - 1) for n, each in value.items()}
        elif keyword in _SCHEMAS and isinstance(value, list):
            ordered[keyword] = [_order_schema(each, depth - 1) for each in value]
        elif keyword in _SCHEMA:
            ordered[keyword] = _order_schema(value, depth - 1)
    return ordered


def _order(values: Mapping[str, Any], first: Sequence[str]) -> dict[str, Any]:
    """The same mapping, these keys first, the others by name."""
    names = [*(name for name in first if name in values), *sorted(values.keys() - set(first))]
    return {name: values[name] for name in names}
