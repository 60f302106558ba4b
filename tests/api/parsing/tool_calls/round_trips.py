"""Past calls as every real template renders them, read back; and the table of docs/reference.

    python -m tests.api.parsing.tool_calls.round_trips

prints the table. It needs the collection of templates beside the checkout.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Sequence
from typing import Any

from services.api.parsing.tool_calls.base import ToolDialect
from services.api.parsing.tool_calls.detect import choose_dialect
from services.api.prompts.render import Conversation
from services.shared.errors import SpindllError
from services.shared.templates.traits import TemplateTraits
from tests.api.parsing.reading import calls_of, join, read
from tests.api.prompts.rendering import get_renderer, make_manifest, render_prompt
from tests.api.prompts.template_cases import (
    BIG,
    COLLECTION,
    TOOLS,
    USER,
    call,
    make_call,
    make_tool,
)

NEAR = {"type": "object", "description": "Where.", "properties": {"lat": {"type": "number"}}}
TYPED_TOOLS = [
    make_tool(
        "get_weather",
        zip={"type": "string", "description": "Its code."},
        big={"type": "integer", "description": "A number."},
        hot={"type": "boolean", "description": "Whether."},
        near=NEAR,
    ),
    make_tool("get_time"),
]
# By case: the calls of one message.
CASES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "one string": [("get_weather", {"city": "Paris"})],
    "types": [("get_weather", {"zip": "007", "big": BIG, "limit": 12, "hot": True, "ids": [1, 2]})],
    "text": [("get_weather", {"city": 'Zürich "Süd" - 東京\n  two, {lines}: <b> [x]'})],
    "nested": [("get_weather", {"city": "X", "near": {"lat": 1.5}})],
    "two calls": [("get_weather", {"city": "Paris"}), ("get_time", {"city": "Rome", "limit": 3})],
}


find_manifest = functools.cache(make_manifest)  # an opened template belongs to its manifest


@functools.cache
def read_traits(template: str) -> TemplateTraits:
    templates = get_renderer()._templates
    opened = templates.open(template, bos_token="<s>", eos_token="</s>", control_tokens=())
    return opened.traits or TemplateTraits(failure=None)


def choose(template: str) -> ToolDialect:
    return choose_dialect(template, read_traits(template))


def list_tools(template: str) -> list[dict[str, Any]]:
    # Command-R+'s template fails for a parameter that is an object.
    return TYPED_TOOLS[1:] + TOOLS[:1] if "Action:" in template else TYPED_TOOLS


def render(template: str, messages: Sequence[dict[str, Any]], *, prompt: bool = False) -> str:
    conversation = Conversation(
        messages=messages,
        tools=list_tools(template),
        add_generation_prompt=prompt,
        options={"datetime": "today", "functions": json.dumps(TOOLS)},
    )
    pieces = render_prompt(find_manifest(template), conversation).pieces
    return "".join(piece.text for piece in pieces)


@functools.cache
def render_question(template: str) -> str:
    return render(template, [USER], prompt=True)


def cut_answer(template: str, calls: list[tuple[str, dict[str, Any]]]) -> str:
    """The part of the prompt that the model would have written."""
    written = [make_call(arguments, n, name) for n, (name, arguments) in enumerate(calls, 1)]
    prompt = render_question(template)
    whole = render(template, [USER, call(*written)])
    common = os.path.commonprefix([prompt, whole])  # noqa: RUF071
    if common != prompt:  # they part inside a marker, as in `<think>` and `<tool_call>`
        common = re.sub(r"<[^<>]*$", "", common)
    return whole[len(common) :]


@functools.cache
def check(template: str, case: str) -> str:
    """`yes`, or what is wrong."""
    tools = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TYPED_TOOLS}
    try:
        text = cut_answer(template, CASES[case])
    except SpindllError as error:
        return f"{type(error).__name__}: {error.message}"
    answer = join(read(choose(template).open(tools), [text]))
    return "yes" if calls_of(answer) == CASES[case] else f"{text!r} -> {answer}"


def build_table() -> dict[str, dict[str, str]]:
    """By template and case, what `check` says; the first cell is the dialect."""
    return {
        path.stem: {
            "dialect": choose(path.read_text()).name,
            **{case: check(path.read_text(), case) for case in CASES},
        }
        for path in sorted(COLLECTION.glob("*.jinja"))
    }


def format_table(table: dict[str, dict[str, str]]) -> str:
    """The table as Markdown."""
    lines = [f"| template | dialect | {' | '.join(CASES)} |", "|-" * (len(CASES) + 2) + "|"]
    for name, cells in table.items():
        marks = ["✓" if cells[case] == "yes" else "no" for case in CASES]
        lines.append(f"| {name} | {cells['dialect']} | {' | '.join(marks)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(format_table(build_table()))
