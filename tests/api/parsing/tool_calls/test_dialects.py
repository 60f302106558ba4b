"""Every dialect reads what its model writes: the same answers, each in the dialect's own form."""

from __future__ import annotations

import pytest

from services.api.parsing.tool_calls.base import ToolDialect
from services.api.parsing.tool_calls.detect import DIALECTS
from tests.api.parsing.reading import Answer, calls_of, join, read
from tests.api.parsing.tool_calls.forms import TOOLS, Segment, write_answer

BY_NAME: dict[str, ToolDialect] = {dialect.name: dialect for dialect in DIALECTS}
WEATHER, TIME = "get_weather", "get_time"
NEAR = {"name": "Zürich", "at": [47.4, 8.5], "deep": {"ok": True}}
LONG = "0123456789 abcdefg\n" * 500

# By case: the answer, and its content; whitespace around calls is not content.
CASES: dict[str, tuple[list[Segment], str]] = {
    "only text": (["Hello, world. 1 < 2 > 0 {x} [y] `z`"], "Hello, world. 1 < 2 > 0 {x} [y] `z`"),
    "text with spaces at its ends": (["  Hello \n\n"], "  Hello \n\n"),
    "one call": ([[(WEATHER, {"city": "Paris"})]], ""),
    "no arguments": ([[(TIME, {})]], ""),
    "two calls": ([[(WEATHER, {"city": "Paris"}), (TIME, {"city": "Rome"})]], ""),
    "three calls": ([[(TIME, {"city": c}) for c in "abc"]], ""),
    "text before": (["Let me look.\n\n", [(TIME, {"city": "Rome"})]], "Let me look."),
    "text after": ([[(TIME, {"city": "Rome"})], "\nDone."], "Done."),
    "text between": (
        ["One:\n", [(TIME, {"city": "Rome"})], "\nTwo:\n", [(WEATHER, {"city": "Oslo"})], "\nEnd"],
        "One:Two:End",
    ),
    "unicode": (["Ça va 🙂\n", [(TIME, {"city": "Zürich 東京 🙂 \u200b"})]], "Ça va 🙂"),
    "nested": ([[(WEATHER, {"city": "X", "near": NEAR})]], ""),
    "quotes": ([[(TIME, {"city": 'say "hi", it\'s "so"'})]], ""),
    "lines": ([[(TIME, {"city": "one\n  two\tthree\\four\\n"})]], ""),
    "empty string": ([[(TIME, {"city": ""})]], ""),
    "digits in a string": ([[(TIME, {"city": "007"})]], ""),
    "words in a string": ([[(WEATHER, {"city": "true"}), (TIME, {"city": "null"})]], ""),
    "a big integer": ([[(WEATHER, {"city": "X", "limit": 9007199254740993123456789})]], ""),
    "floats": ([[(WEATHER, {"city": "X", "ratio": -1.5e-7})]], ""),
    "booleans and arrays": ([[(WEATHER, {"city": "X", "hot": False, "ids": [1, -2]})]], ""),
    "code in a string": ([[(TIME, {"city": 'if (a < b) { return {"x": [1]}; } // </b>'})]], ""),
    "a long string": ([[(TIME, {"city": LONG.strip()})]], ""),
    "text at the line of a call": (["Look: ", [(TIME, {"city": "Rome"})]], "Look:"),
}
# Where a dialect says something else: by dialect and case, its content.
EXCEPTIONS: dict[tuple[str, str], str | None] = {
    # Messages of their own: nothing around them is dropped.
    ("harmony", "text before"): "Let me look.\n\n",
    ("harmony", "text after"): "\nDone.",
    ("harmony", "text between"): "One:\n\nTwo:\n\nEnd",
    ("harmony", "unicode"): "Ça va 🙂\n",
    ("harmony", "text at the line of a call"): "Look: ",
    ("functionary-v3.2", "text after"): "\nDone.",
    # Bare JSON is a call at the start of a line only.
    ("llama3", "text at the line of a call"): None,
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", BY_NAME)
def test_a_dialect_reads_its_own_form(name: str, case: str) -> None:
    segments, content = CASES[case]
    expected = EXCEPTIONS.get((name, case), content)
    if expected is None:
        pytest.skip("this dialect has no such answer")
    text = write_answer(name, segments)

    whole, single = read_both(name, text)

    assert whole == single
    assert calls_of(whole) == [call for s in segments if not isinstance(s, str) for call in s]
    assert whole.content == expected


@pytest.mark.parametrize("name", BY_NAME)
def test_a_call_of_an_unknown_function_is_content(name: str) -> None:
    text = "Look:\n" + write_answer(name, [[("no_such_function", {"city": "Paris"})]])

    whole, single = read_both(name, text)

    assert whole == single
    assert whole.calls == []
    assert "no_such_function" in whole.content
    if not getattr(BY_NAME[name], "dropped", ()) and name != "harmony":
        assert whole.content == text


@pytest.mark.parametrize("name", BY_NAME)
def test_a_call_that_ends_before_its_name_is_content(name: str) -> None:
    text = write_answer(name, [[(WEATHER, {"city": "Paris"})]])
    text = text[: text.index(WEATHER) + 5]

    whole, single = read_both(name, text)

    assert whole == single
    assert whole.calls == []
    assert whole.content.endswith("get_w")


@pytest.mark.parametrize("name", BY_NAME)
def test_a_call_that_ends_in_its_arguments_has_no_end(name: str) -> None:
    text = write_answer(name, [[(TIME, {"city": "Rome"}), (WEATHER, {"city": "Paris"})]])
    text = text[: text.index("Par") + 3]

    whole, single = read_both(name, text)

    assert whole == single
    assert [(call.name, call.is_whole) for call in whole.calls] == [(TIME, True), (WEATHER, False)]
    assert "Paris" not in whole.calls[1].arguments
    assert name == "minimax-m3" or whole.calls[1].arguments.endswith('"Par')


@pytest.mark.parametrize("name", [n for n in BY_NAME if n not in ("harmony", "functionary-v3.2")])
def test_a_marker_in_a_text_is_content(name: str) -> None:
    marker = getattr(BY_NAME[name], "markers")[0]  # noqa: B009
    text = f"The model writes {marker} before a call, and {marker}."

    whole, single = read_both(name, text)

    assert whole == single == Answer(content=text)


@pytest.mark.parametrize("name", BY_NAME)
def test_the_name_comes_before_the_arguments_are_complete(name: str) -> None:
    text = write_answer(name, [[(WEATHER, {"city": "Paris"})]])
    parser = BY_NAME[name].open(TOOLS)

    parts = parser.feed(text[: text.index("Par")])

    assert [call.name for call in join(parts).calls] == [WEATHER]


def read_both(name: str, text: str) -> tuple[Answer, Answer]:
    """The answer read at once, and character by character."""
    dialect = BY_NAME[name]
    return join(read(dialect.open(TOOLS), [text])), join(read(dialect.open(TOOLS), text))
