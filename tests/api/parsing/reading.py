"""Feeds a text to a parser and joins the parts, so that answers can be compared."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from services.api.parsing.parts import (
    CallArguments,
    CallEnded,
    CallStarted,
    Content,
    OutputParser,
    Part,
    Reasoning,
)


@dataclass
class Call:
    """What a client sees of one call."""

    name: str
    arguments: str = ""
    is_whole: bool = False


@dataclass
class Answer:
    """All parts of one answer, joined."""

    content: str = ""
    calls: list[Call] = field(default_factory=list)
    reasoning: str = ""


def read(parser: OutputParser, deltas: Iterable[str]) -> list[Part]:
    parts = [part for delta in deltas for part in parser.feed(delta)]
    return [*parts, *parser.finish()]


def join(parts: Iterable[Part]) -> Answer:
    """The answer; checks that the parts of calls come in order."""
    answer = Answer()
    for part in parts:
        match part:
            case Content(text=text):
                answer.content += text
            case Reasoning(text=text):
                answer.reasoning += text
            case CallStarted(index=index, name=name):
                assert index == len(answer.calls)
                answer.calls.append(Call(name))
            case CallArguments(index=index, fragment=fragment):
                assert index == len(answer.calls) - 1
                assert not answer.calls[index].is_whole
                answer.calls[index].arguments += fragment
            case CallEnded(index=index):
                assert index == len(answer.calls) - 1
                answer.calls[index].is_whole = True
    return answer


def calls_of(answer: Answer) -> list[tuple[str, Any]]:
    """The whole calls, with their arguments parsed."""
    return [(call.name, json.loads(call.arguments)) for call in answer.calls if call.is_whole]
