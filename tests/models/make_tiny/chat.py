"""Build conversations with tools and tool calls, and render them by the chat template."""

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
    # The same options as in transformers and llama-cpp-python.
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    made.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return made


_TEMPLATE = _environment().from_string(CHAT_TEMPLATE)


def render(messages: Sequence[Message], tools: Sequence[Tool] = (), **options: bool) -> str:
    """Render the prompt. The template's options are `enable_thinking` and `open_thinking`."""
    variables: dict[str, Any] = {"messages": messages, "tools": tools or None}
    return _TEMPLATE.render(**variables, add_generation_prompt=True, **options)


def system(text: str) -> Message:
    """A system message."""
    return {"role": "system", "content": text}


def user(text: str) -> Message:
    """A message of the user."""
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    """A message of the model."""
    return {"role": "assistant", "content": text}


def tool(name: str, description: str, argument: str = "city") -> Tool:
    """A function with one string argument, in the format of OpenAI's API."""
    return _tool(
        {"name": name, "description": description},
        {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]},
    )


def _tool(function: dict[str, Any], parameters: dict[str, Any]) -> Tool:
    return {"type": "function", "function": {**function, "parameters": parameters}}


WEATHER = tool("get_weather", "Get the weather in a city")
TIME = tool("get_time", "Get the local time in a city")
SEARCH = tool("search", "Search the web", "query")


def vary_tools(tools: Sequence[Tool], draw: random.Random) -> list[Tool]:
    """Vary the schemas of the tools as other clients do; their meaning stays the same."""
    if draw.random() < 0.6:
        return list(tools)
    return [_vary_tool(one["function"], draw) for one in tools]


def _vary_tool(function: Mapping[str, Any], draw: random.Random) -> Tool:
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
    """A tool call in the format of an assistant message."""
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def weather_question(city: str) -> list[Message]:
    """A question about the weather, and the tool call that answers it."""
    calls = [call("get_weather", city=city)]
    return [
        user(f"What is the weather in {city}?"),
        {"role": "assistant", "content": None, "tool_calls": calls},
    ]


def tool_result(city: str, sky: str, degrees: int) -> Message:
    """The result of the weather tool, as a message."""
    content = json.dumps({"city": city, "sky": sky, "degrees": degrees})
    return {"role": "tool", "content": content}


def format_calls(*calls: Mapping[str, Any]) -> str:
    """The text with which the model calls tools."""
    return "\n".join(
        "<tool_call>\n" + json.dumps(one["function"]) + "\n</tool_call>" for one in calls
    )


def format_thoughts(thoughts: str, answer: str) -> str:
    """The text of an answer with thoughts before it."""
    return f"<think>\n{thoughts}\n</think>\n\n{answer}"
