"""Which parser an answer gets."""

from __future__ import annotations

from typing import Any

import pytest

from services.api.parsing.parser_choice import choose_parser
from services.api.parsing.parts import (
    CallArguments,
    CallEnded,
    CallStarted,
    Content,
    OutputParser,
    Part,
    Reasoning,
)
from services.api.parsing.tool_calls.base import ToolDialect
from tests.api.parsing.tag_dialect import OneSyntax, TagDialect

SCHEMA = {"type": "object"}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}]
THINKS = "{{ '<think>' }}"
CALL = '<call>f {"a": 1}</call>'
CALLED: list[Part] = [CallStarted(0, "id0", "f"), CallArguments(0, '{"a": 1}'), CallEnded(0)]


def choose(
    *, template: str = THINKS, dialect: ToolDialect | None = None, **changes: Any
) -> OutputParser | None:
    given: dict[str, Any] = {
        "prompt": "assistant\n",
        "prefill": None,
        "tools": (),
        "separates_reasoning": True,
    }
    options = {**given, **changes}
    make = choose_parser(template, dialect=dialect or TagDialect(), **options)
    return None if make is None else make()


def parse(parser: OutputParser | None, text: str) -> list[Part]:
    assert parser is not None
    return [*parser.feed(text), *parser.finish()]


@pytest.mark.parametrize(
    ("template", "changes"),
    [
        ("{{ 'plain' }}", {}),
        (THINKS, {"separates_reasoning": False}),
        (THINKS, {"prefill": "The answer is"}),
        (THINKS, {"prefill": "<think>a</think>The"}),
        (THINKS, {"separates_reasoning": False, "dialect": OneSyntax()}),
    ],
)
def test_an_answer_that_is_all_text_needs_none(template: str, changes: dict[str, Any]) -> None:
    assert choose(template=template, **changes) is None


def test_thinking_alone() -> None:
    assert parse(choose(), f"<think>a</think>{CALL}") == [Reasoning("a"), Content(CALL)]


def test_calls_alone() -> None:
    parser = choose(template="{{ 'plain' }}", tools=TOOLS)

    assert parse(parser, f"<think>a{CALL}") == [Content("<think>a"), *CALLED]


class Shaping(TagDialect):
    """As if its answers had texts around them."""

    shapes_text = True


def test_an_answer_with_texts_around_it_is_parsed_without_tools() -> None:
    dialect = Shaping()

    assert parse(choose(template="{{ 'plain' }}", dialect=dialect), "a") == [Content("a")]
    assert parse(choose(dialect=dialect), "<think>a</think>b") == [Reasoning("a"), Content("b")]


@pytest.mark.parametrize("changes", [{"is_structured": True}, {"separates_reasoning": False}])
def test_nothing_is_dropped_from_a_structure_or_an_unseparated_answer(
    changes: dict[str, Any],
) -> None:
    assert choose(template="{{ 'plain' }}", dialect=Shaping(), **changes) is None


def test_a_structure_holds_no_calls() -> None:
    parser = choose(tools=TOOLS, is_structured=True)

    assert parse(parser, f"<think>a</think>{CALL}") == [Reasoning("a"), Content(CALL)]


def test_calls_after_the_thinking_and_none_in_it() -> None:
    text = f"<think>{CALL}</think>b{CALL}"

    assert parse(choose(tools=TOOLS), text) == [Reasoning(CALL), Content("b"), *CALLED]


def test_what_reasoning_holds_back_reaches_the_parser_of_calls_at_the_end() -> None:
    assert parse(choose(tools=TOOLS), "<thi") == [Content("<thi")]


@pytest.mark.parametrize(
    "changes", [{"prompt": "assistant\n<think>\n"}, {"prefill": "<think>\nFirst"}], ids=str
)
def test_an_answer_that_begins_inside_the_thinking(changes: dict[str, Any]) -> None:
    assert parse(choose(**changes), "a</think>b") == [Reasoning("a"), Content("b")]


def test_a_dialect_with_thinking_in_its_syntax_reads_all() -> None:
    dialect = OneSyntax()

    assert parse(choose(dialect=dialect), "<think>a") == [Content("<think>a")]
    assert dialect.tools == {}


def test_a_dialect_gets_the_schemas_by_name() -> None:
    dialect = TagDialect()
    bare = {"type": "function", "function": {"name": "g"}}
    choose(dialect=dialect, tools=[*TOOLS, bare])

    assert dialect.tools == {"f": SCHEMA, "g": {}}
