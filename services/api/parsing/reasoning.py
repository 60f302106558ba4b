r"""Separates what a model thinks from its answer.

    <think>\nHm. 2 + 2.\n</think>\n\n4.        Reasoning("Hm. 2 + 2."), Content("4.")

Only the start of an answer is searched for the marks: an answer that explains the marks stays as
it is. The blank space beside the marks, up to MAX_HELD_SPACES of it before one, belongs to neither
part.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum, auto

from services.api.parsing.holdback import MAX_HELD_SPACES, SPACES, Markers, count_held_spaces
from services.api.parsing.parts import Content, Part, Reasoning
from services.api.parsing.reasoning_marks import ReasoningMarks
from services.api.parsing.tool_calls.shapes.grammar import (
    GrammarPart,
    OptionalPart,
    PatternPart,
    TextPart,
    build_grammar,
)

_GAP = r"[ \t\r\n]{1,4}"


def describe_thinking(
    marks: ReasoningMarks, special_tokens: Collection[str], *, is_open: bool, is_call: bool = False
) -> str:
    """A Lark grammar of what is written before the text of an answer, or before a call.

    `is_open`: the answer begins inside the thinking, which else may be left out.
    """
    gap = OptionalPart((PatternPart(_GAP),))
    thinking: list[GrammarPart] = [TextPart(marks.end), gap, marks.between]
    if not is_open:
        thinking = [OptionalPart((marks.start, *thinking))]
    if marks.header and not is_call:
        thinking.append(OptionalPart((marks.header,)))
    return build_grammar("thinking", thinking, special_tokens)


class _Place(Enum):
    START = auto()  # nothing but blank space, or a part of the mark, so far
    THINKING = auto()
    GAP = auto()  # between the end of the thinking and the text of the answer
    ANSWER = auto()


class ReasoningParser:
    """Parses one answer; an `OutputParser` that yields Reasoning, then Content.

    `is_open`: the answer begins inside the thinking, because the prompt ends there. A start mark
    that the model repeats is dropped then.
    """

    def __init__(self, marks: ReasoningMarks, *, is_open: bool) -> None:
        self._marks = marks
        self._ends = Markers([marks.end])
        self._header = marks.header.lstrip(SPACES)
        self._dropped = tuple(filter(None, (marks.between, self._header)))  # in the gap
        self._is_open = is_open
        self._place = _Place.START
        self._has_thought = False
        self._held = ""

    def feed(self, text: str) -> list[Part]:
        """The parts that more text has decided."""
        if self._place is _Place.ANSWER:
            return [Content(text)] if text else []
        self._held += text
        parts: list[Part] = []
        if self._place is _Place.START:
            self._search_start()
        if self._place is _Place.THINKING:
            self._search_end(parts)
        if self._place is _Place.GAP and self._ends_gap():
            self._place = _Place.ANSWER
        if self._place is _Place.ANSWER and self._held:
            parts.append(Content(self._held))
            self._held = ""
        return parts

    def finish(self) -> list[Part]:
        """The rest: thinking that was never closed stays thinking."""
        held, self._held = self._held, ""
        if self._place is _Place.GAP or not held:
            return []
        if self._place is _Place.START and not self._is_open:
            return [Content(held)]
        return [Reasoning(held)] if held.strip(SPACES) else []

    def _search_start(self) -> None:
        start, found = self._marks.start, self._held.lstrip(SPACES)
        header = "" if self._is_open else self._header
        if self._is_open:
            self._held = found
        is_near = len(self._held) - len(found) <= MAX_HELD_SPACES
        if is_near and found.startswith(start):
            self._held = found.removeprefix(start)
            self._place = _Place.THINKING
        elif is_near and header and found.startswith(header):
            self._held = found.removeprefix(header)
            self._place = _Place.ANSWER
        elif not is_near or not (start.startswith(found) or header.startswith(found)):
            self._place = _Place.THINKING if self._is_open else _Place.ANSWER

    def _search_end(self, parts: list[Part]) -> None:
        end = self._marks.end
        before, mark, after = self._held.partition(end)
        decided = before if mark else before[: len(before) - self._ends.count_held(before)]
        text = decided[: len(decided) - count_held_spaces(decided)]
        thought = text if self._has_thought else text.lstrip(SPACES)
        if thought:
            self._has_thought = True
            parts.append(Reasoning(thought))
        if mark:
            self._held = after
            self._place = _Place.GAP
        else:
            self._held = self._held[len(text) :]

    def _ends_gap(self) -> bool:
        """Drop what comes between the thinking and the answer; whether the answer has begun."""
        while True:
            self._held = self._held.lstrip(SPACES)
            found = [n for n, text in enumerate(self._dropped) if self._held.startswith(text)]
            if not found:
                return not any(text.startswith(self._held) for text in ("", *self._dropped))
            self._held = self._held.removeprefix(self._dropped[found[0]])
            self._dropped = self._dropped[found[0] + 1 :]
            if not self._dropped:  # blank space after the header is a part of the answer
                return True
