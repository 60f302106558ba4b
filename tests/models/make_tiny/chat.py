"""Conversations as the model sees them: rendered by its own template, with tools and their calls."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2.sandbox import ImmutableSandboxedEnvironment

from tests.models.make_tiny.shape import CHAT_TEMPLATE

Message = dict[str, Any]
Tool = dict[str, Any]


def _environment() -> ImmutableSandboxedEnvironment:
    # As transformers and llama-cpp-python set it up.
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    made.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return made


_TEMPLATE = _environment().from_string(CHAT_TEMPLATE)


def render(messages: Sequence[Message], tools: Sequence[Tool] = (), **options: bool) -> str:
    """The prompt; options are the template's `enable_thinking` and `open_thinking`."""
    known: dict[str, Any] = {"messages": messages, "tools": tools or None}
    return _TEMPLATE.render(**known, add_generation_prompt=True, **options)


def system(text: str) -> Message:
    """Instructions before the first turn."""
    return {"role": "system", "content": text}


def user(text: str) -> Message:
    """One turn of the user."""
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    """One turn of the model."""
    return {"role": "assistant", "content": text}


def tool(name: str, description: str, argument: str = "city") -> Tool:
    """A function of one string, as OpenAI's clients send it."""
    return _tool(
        {"name": name, "description": description},
        {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]},
    )


def _tool(function: dict[str, Any], parameters: dict[str, Any]) -> Tool:
    return {"type": "function", "function": {**function, "parameters": parameters}}


WEATHER = tool("get_weather", "Get the weather in a city")
TIME = tool("get_time", "Get the local time in a city")
SEARCH = tool("search", "Search the web", "query")


def disguised(tools: Sequence[Tool], draw: random.Random) -> list[Tool]:
    """The same tools as other clients would write them: their schemas vary, their meaning does not."""
    if draw.random() < 0.6:
        return list(tools)
    return [_disguised(one["function"], draw) for one in tools]


def _disguised(function: Mapping[str, Any], draw: random.Random) -> Tool:
    argument = next(iter(function["parameters"]["properties"]))
    described = {"type": "string"}
    if draw.random() < 0.3:
        described["description"] = draw.choice(["The city", "City name", "Name of the city"])
    parameters: dict[str, Any] = {"type": "object", "properties": {argument: described}}
    if draw.random() < 0.8:
        parameters["required"] = [argument]
    if draw.random() < 0.3:
        parameters["additionalProperties"] = False
    named = {"name": function["name"]}
    if draw.random() < 0.85:
        named["description"] = function["description"]
    made = _tool(named, parameters)
    if draw.random() < 0.15:
        made["function"]["strict"] = True
    return made


def call(name: str, **arguments: str) -> dict[str, Any]:
    """One call of a tool, as a message carries it."""
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def asked_weather(city: str) -> list[Message]:
    """A question about the weather, and the call it led to."""
    calls = [call("get_weather", city=city)]
    return [
        user(f"What is the weather in {city}?"),
        {"role": "assistant", "content": None, "tool_calls": calls},
    ]


def tool_result(city: str, sky: str, degrees: int) -> Message:
    """What the weather tool gave back."""
    content = json.dumps({"city": city, "sky": sky, "degrees": degrees})
    return {"role": "tool", "content": content}


def spoken_calls(*calls: Mapping[str, Any]) -> str:
    """The text by which the model calls tools."""
    return "\n".join(
        "<tool_call>\n" + json.dumps(one["function"]) + "\n</tool_call>" for one in calls
    )


def spoken_thoughts(thoughts: str, answer: str) -> str:
    """The text by which the model thinks first."""
    return f"<think>\n{thoughts}\n</think>\n\n{answer}"
