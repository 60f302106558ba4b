"""Thinking as every real template writes it, read back; and the table of docs/reference.

    python -m tests.api.parsing.thinking_table

prints the table. It needs the collection of templates beside the checkout.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from services.api.parsing.parser_choice import MakeParser, choose_parser
from services.api.parsing.parts import OutputParser
from services.api.parsing.reasoning_marks import ReasoningMarks, find_marks
from services.api.parsing.tool_calls.base import ThinkingDialect
from services.api.prompts.render import Conversation
from tests.api.parsing.reading import join, read
from tests.api.parsing.tool_calls.round_trips import choose, find_manifest
from tests.api.prompts.rendering import render_prompt
from tests.api.prompts.template_cases import COLLECTION, TOOLS, USER

THOUGHT, ANSWER = "Oh, <b> 2 + 2.", "It is 4."
_THOUGHT_FIELDS = ("reasoning_content", "reasoning", "thinking")
# What switches thinking on, in templates whose thinking is off.
_SWITCHES: Mapping[str, Any] = {
    "enable_thinking": True,
    "thinking": True,
    "reasoning_effort": "high",
    "thinking_mode": "enabled",
    "datetime": "today",
}


def find_all_marks(template: str) -> ReasoningMarks | None:
    """The marks, also those that a dialect of calls reads itself."""
    dialect = choose(template)
    return dialect.marks if isinstance(dialect, ThinkingDialect) else find_marks(template)


@functools.cache
def render(template: str, *, is_switched: bool, thought: str = "", answer: str = "") -> str:
    """The prompt of a question, or the conversation with its answer."""
    messages = [USER]
    if answer:
        fields = dict.fromkeys(_THOUGHT_FIELDS, thought) if thought else {}
        messages.append({"role": "assistant", "content": answer, **fields})
    conversation = Conversation(
        messages=messages,
        add_generation_prompt=not answer,
        options=_SWITCHES if is_switched else {"datetime": "today"},
    )
    pieces = render_prompt(find_manifest(template), conversation).pieces
    return "".join(piece.text for piece in pieces)


def write_answer(template: str, marks: ReasoningMarks) -> str:
    """What the model writes: as the template renders it, or by the marks where it leaves it out."""
    prompt = render(template, is_switched=True)
    whole = render(template, is_switched=True, thought=THOUGHT, answer=ANSWER)
    if THOUGHT not in whole:
        start = "" if marks.is_opened_by(prompt) else marks.start
        return f"{start}{THOUGHT}{marks.end}{marks.between}{marks.header}{ANSWER}"
    common = os.path.commonprefix([prompt, whole])  # noqa: RUF071
    if common != prompt:
        common = re.sub(r"<[^<>]*$", "", common)
    return whole[len(common) : whole.rindex(ANSWER) + len(ANSWER)]


def choose_maker(template: str, *, has_tools: bool) -> MakeParser:
    """What makes the parser of an answer to a prompt with thinking switched on."""
    make = choose_parser(
        template,
        prompt=render(template, is_switched=True),
        prefill=None,
        tools=TOOLS if has_tools else (),
        separates_reasoning=True,
        dialect=choose(template),
    )
    assert make is not None
    return make


def tell_apart(parser: OutputParser, deltas: Iterable[str]) -> tuple[str, str]:
    """The thinking and the answer."""
    found = join(read(parser, deltas))
    assert found.calls == []
    return found.reasoning, found.content


def describe(template: str) -> str:
    """The cells of a template."""
    marks = find_all_marks(template)
    if marks is None:
        return "nothing | |"
    written = [json.dumps(text, ensure_ascii=False)[1:-1] for text in (marks.start, marks.end)]
    shown = ["`" + text.replace("|", r"\|") + "`" for text in written]
    is_open = marks.is_opened_by(render(template, is_switched=False))
    return f"{' … '.join(shown)} | {'the prompt' if is_open else 'the model'} |"


def format_table() -> str:
    """The table as Markdown."""
    head = ["| template | thinking is between | opened by |", "|-|-|-|"]
    paths = sorted(COLLECTION.glob("*.jinja"))
    return "\n".join([*head, *(f"| {path.stem} | {describe(path.read_text())}" for path in paths)])


if __name__ == "__main__":
    print(format_table())
