"""Which parser the answers of one request need, if any.

the text of an answer ─► ReasoningParser ─► Content ─► the parser of the tool dialect
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from services.api.parsing.parts import Content, OutputParser, Part
from services.api.parsing.reasoning import ReasoningParser
from services.api.parsing.reasoning_marks import ReasoningMarks, find_marks
from services.api.parsing.tool_calls.base import ToolDialect

MakeParser = Callable[[], OutputParser]


def choose_parser(
    template: str,
    *,
    prompt: str,
    prefill: str | None,
    tools: Sequence[Mapping[str, Any]],
    is_structured: bool = False,
    separates_reasoning: bool,
    dialect: ToolDialect,
) -> MakeParser | None:
    """What makes a parser for each answer; None where the text needs none.

    `prompt` is its last part at least. `prefill` is the text of the message that the model
    continues, if it continues one. `tools` are in OpenAI's form. `is_structured`: the text of the
    answer is a structured output, so that all of it is content.
    """
    if is_structured:
        tools = ()
    schemas = {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in tools}
    if dialect.handles_reasoning:
        has_work = bool(tools) or separates_reasoning
        return (lambda: dialect.open(schemas)) if has_work else None
    thinking = find_thinking(template, prompt, prefill) if separates_reasoning else None
    is_shaped = dialect.shapes_text and separates_reasoning and not is_structured
    if thinking is None:
        return (lambda: dialect.open(schemas)) if tools or is_shaped else None
    marks, is_open = thinking
    if not tools and not is_shaped:
        return lambda: ReasoningParser(marks, is_open=is_open)
    return lambda: _BothParser(marks, dialect.open(schemas), is_open=is_open)


def find_thinking(
    template: str, prompt: str, prefill: str | None
) -> tuple[ReasoningMarks, bool] | None:
    """The marks of what a model thinks before it answers, and whether the answer begins inside.

    None where it does not think, or where the message that it continues has begun the answer.
    """
    marks = find_marks(template)
    if marks is None or (prefill and not marks.is_open_in(prefill)):
        return None
    return marks, bool(prefill) or marks.is_opened_by(prompt)


class _BothParser:
    """Reasoning first; what remains goes to the parser of calls. A call in thinking is thinking."""

    def __init__(self, marks: ReasoningMarks, calls: OutputParser, *, is_open: bool) -> None:
        self._reasoning = ReasoningParser(marks, is_open=is_open)
        self._calls = calls

    def feed(self, text: str) -> list[Part]:
        """The parts that more text has decided."""
        return self._parse(self._reasoning.feed(text))

    def finish(self) -> list[Part]:
        """The parts that were held back."""
        return [*self._parse(self._reasoning.finish()), *self._calls.finish()]

    def _parse(self, parts: Sequence[Part]) -> list[Part]:
        result: list[Part] = []
        for part in parts:
            result += self._calls.feed(part.text) if isinstance(part, Content) else [part]
        return result
