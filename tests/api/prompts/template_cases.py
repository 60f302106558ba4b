"""The conversations that every real template must render, and the table of docs/reference.

    python -m tests.api.prompts.template_cases

prints the table. It needs the collection of templates beside the checkout.
"""

from __future__ import annotations

import json
from typing import Any

from services.api.prompts.render import Conversation
from services.shared.errors import SpindllError
from tests.api.prompts.rendering import make_manifest, render_prompt
from tests.conftest import SHARED

COLLECTION = SHARED / "data" / "chat-templates"
BIG = 9007199254740993123456789

SYSTEM = {"role": "system", "content": "SystemWords"}
USER = {"role": "user", "content": "UserWords"}
ANSWER = {"role": "assistant", "content": "AnswerWords"}
MORE = {"role": "user", "content": "MoreWords"}
RESULT = {"role": "tool", "content": "ResultWords", "tool_call_id": "abcdefgh1"}


def make_tool(name: str, **more: Any) -> dict[str, Any]:
    properties = {
        "city": {"type": "string", "description": "Which."},
        "limit": {"type": "integer", "description": "How many.", "default": 100000},
        "ids": {"type": "array", "description": "Which.", "items": {"type": "integer"}},
        **more,
    }
    parameters = {"type": "object", "properties": properties, "required": ["city"]}
    described = {"name": name, "description": "Weather of a city.", "parameters": parameters}
    return {"type": "function", "function": described}


def make_call(arguments: object, number: int = 1, name: str = "get_weather") -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"id": f"abcdefgh{number}", "type": "function", "function": function}


def call(*calls: dict[str, Any], content: str | None = "") -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": list(calls)}


OBJECT = {
    "type": "object",
    "description": "Where.",
    "properties": {"lat": {"type": ["number", "null"]}, "unit": {"enum": ["m", "km"]}},
}
TOOLS = [make_tool("get_weather"), make_tool("get_time")]


def with_call(arguments: object) -> dict[str, Any]:
    return {"messages": [USER, call(make_call(arguments)), RESULT], "tools": TOOLS}


# By case: the conversation, and what the prompt must contain.
CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "question": ({"messages": [USER]}, ["UserWords"]),
    "system": ({"messages": [SYSTEM, USER]}, ["SystemWords", "UserWords"]),
    "turns": ({"messages": [USER, ANSWER, MORE]}, ["UserWords", "AnswerWords", "MoreWords"]),
    "tools": (
        {"messages": [SYSTEM, USER], "tools": TOOLS},
        ["SystemWords", "get_weather", "get_time", "UserWords"],
    ),
    "object parameter": (
        {"messages": [USER], "tools": [make_tool("get_weather", near=OBJECT)]},
        ["get_weather", "UserWords"],
    ),
    "call": (with_call({"city": "CityWords"}), ["get_weather", "CityWords", "ResultWords"]),
    "calls": (
        {
            "messages": [
                USER,
                call(make_call({"city": "CityOne"}), make_call({"city": "CityTwo"}, 2, "get_time")),
                RESULT,
                {**RESULT, "content": "SecondWords", "tool_call_id": "abcdefgh2"},
                ANSWER,
                MORE,
            ],
            "tools": TOOLS,
        },
        ["CityOne", "CityTwo", "ResultWords", "SecondWords", "AnswerWords", "MoreWords"],
    ),
    "function": (
        {
            "messages": [
                USER,
                call(make_call({"city": "CityWords"})),
                {"role": "function", "name": "get_weather", "content": "ResultWords"},
            ],
            "tools": TOOLS,
        },
        ["CityWords", "ResultWords"],
    ),
    "integers": (with_call({"city": "X", "limit": 10_000, "big": BIG}), ["10000", str(BIG)]),
    "floats": (with_call({"city": "X", "a": 0.25, "b": -1e-7, "c": 1e300}), ["0.25", "e-07"]),
    "null": (with_call({"city": "CityWords", "a": None, "b": True, "c": []}), ["CityWords"]),
    "nested": (
        with_call({"city": "X", "near": {"lat": [{"deep": "DeepWords"}]}, "ids": [7, 77777]}),
        ["DeepWords", "77777"],
    ),
    "parts": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "PartWords"}]}]},
        ["PartWords"],
    ),
    "null content": (
        {
            "messages": [USER, call(make_call({"city": "CityWords"}), content=None), RESULT],
            "tools": TOOLS,
        },
        ["CityWords", "ResultWords"],
    ),
}


def check(template: str, case: str) -> str:
    """`yes`, or what is wrong."""
    conversation, words = CASES[case]
    try:
        prompt = render_prompt(make_manifest(template), Conversation(**conversation))
    except SpindllError as error:
        return f"{type(error).__name__}: {error.message}"
    text = "".join(piece.text for piece in prompt.pieces)
    missing = [word for word in words if word not in text]
    return f"missing: {', '.join(missing)}" if missing else "yes"


def build_table() -> dict[str, dict[str, str]]:
    """By template and case, what `check` says."""
    return {
        path.stem: {case: check(path.read_text(), case) for case in CASES}
        for path in sorted(COLLECTION.glob("*.jinja"))
    }


def format_table(table: dict[str, dict[str, str]]) -> str:
    """The table as Markdown."""
    lines = [
        f"| template | {' | '.join(map(str, range(1, len(CASES) + 1)))} |",
        "|-" * (len(CASES) + 1) + "|",
    ]
    for name, cells in table.items():
        marks = ["✓" if found == "yes" else "no" for found in cells.values()]
        lines.append(f"| {name} | {' | '.join(marks)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(format_table(build_table()))
