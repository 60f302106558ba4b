"""No text raises, no text is lost, and the deltas of a text do not matter."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.api.parsing.tool_calls.base import ToolDialect
from services.api.parsing.tool_calls.detect import DIALECTS
from tests.api.parsing.reading import join, read
from tests.api.parsing.tool_calls.forms import TOOLS, write_answer

BY_NAME: dict[str, ToolDialect] = {dialect.name: dialect for dialect in DIALECTS}
CALLS: list[Any] = [
    [("get_weather", {"city": 'a "b"\n</c>', "limit": 12, "near": {"name": "x", "at": [1.5]}})],
    [("get_time", {}), ("get_time", {"city": "Zürich 🙂"})],
]


def pieces_of(name: str) -> list[str]:
    """Whole answers and their halves, and pieces that go wrong."""
    answers = [write_answer(name, ["Text\n", calls]) for calls in CALLS]
    halves = [
        half for a in answers for half in (a[: len(a) // 2], a[len(a) // 2 :], a[:25], a[-9:])
    ]
    more = ["get_time", "{", "}", "[", "]", '"', '{"city": ', "\\", "\\u12", "12", "-", "tru", "\n"]
    return [*answers, *halves, *more, " ", "<", "</", ",", ":", "=", "(", ")", "é🙂", "\x00", "'"]


@st.composite
def cut_texts(draw: st.DrawFn, name: str) -> list[str]:
    """A text of pieces of a dialect, in deltas."""
    text = "".join(draw(st.lists(st.sampled_from(pieces_of(name)), max_size=8)))
    cuts = draw(st.lists(st.integers(0, len(text)), max_size=12))
    ends = [0, *sorted(cuts), len(text)]
    return [text[a:b] for a, b in pairwise(ends)]


@pytest.mark.parametrize("name", BY_NAME)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_the_deltas_do_not_matter(name: str, data: st.DataObject) -> None:
    deltas = data.draw(cut_texts(name))
    text = "".join(deltas)
    dialect = BY_NAME[name]

    whole = join(read(dialect.open(TOOLS), [text]))

    assert join(read(dialect.open(TOOLS), deltas)) == whole
    assert join(read(dialect.open(TOOLS), text)) == whole
    for call in whole.calls:
        assert not call.is_whole or isinstance(json.loads(call.arguments), dict)


@st.composite
def damaged_answers(draw: st.DrawFn, name: str) -> str:
    """An answer with a few characters left out, put in or copied from elsewhere."""
    text = write_answer(name, ["Text\n", *CALLS])
    places = st.integers(0, len(text))
    for start, end, put in draw(st.lists(st.tuples(places, places, PUT_IN), max_size=4)):
        size = (end - start) % 30
        text = text[:start] + put + text[start + (0 if put else size) :]
        text = text[:end] + text[start : start + size] + text[end:]
    return text


PUT_IN = st.sampled_from(["", *'<>/|[]{}":,=\n\\a1 '])


@pytest.mark.parametrize("name", BY_NAME)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_damaged_answer_is_read_in_one_way(name: str, data: st.DataObject) -> None:
    text = data.draw(damaged_answers(name))

    whole = join(read(BY_NAME[name].open(TOOLS), [text]))

    assert join(read(BY_NAME[name].open(TOOLS), text)) == whole
    for call in whole.calls:
        assert not call.is_whole or isinstance(json.loads(call.arguments), dict)


@pytest.mark.parametrize("name", BY_NAME)
@settings(max_examples=20, deadline=None)
@given(text=st.text(max_size=300), tools=st.sampled_from([{}, TOOLS]))
def test_any_text_is_read(name: str, text: str, tools: dict[str, Any]) -> None:
    answer = join(read(BY_NAME[name].open(tools), [text]))

    assert answer.calls or answer.content == text or name in ("harmony", "functionary-v3.2")


@pytest.mark.parametrize("name", BY_NAME)
def test_plain_text_is_one_part_for_each_delta(name: str) -> None:
    parser = BY_NAME[name].open(TOOLS)
    if name == "harmony":
        parser.feed("<|channel|>final<|message|>")
    if name == "functionary-v3.2":
        parser.feed("all\n")

    assert [len(parser.feed(f" word{n}")) for n in range(50)] == [1] * 50


EACH_SHAPE = (
    "hermes",
    "llama3",
    "mistral",
    "qwen3-coder",
    "kimi-k3",
    "lfm2",
    "minimax-m3",
    "harmony",
)
HARD = {
    "text": "word ",
    "spaces": " ",
    "starts of markers": "<",
    "opened objects": '{"a":',
    "opened lists": "[",
    "digits": "1",
    "quotes": '"',
    "escapes": "\\\\",
}


@pytest.mark.parametrize("hard", HARD)
@pytest.mark.parametrize("name", EACH_SHAPE)
def test_the_work_grows_with_the_text_and_not_with_its_square(name: str, hard: str) -> None:
    answer = write_answer(name, [[("get_time", {"city": "Rome"})]])
    for before in (answer, answer[: answer.index("Rome")], answer[: answer.index("get_time")]):
        short, long = (count_work(name, before + HARD[hard] * n) for n in (200, 400))

        assert long <= short * 2.3


def count_work(name: str, text: str) -> int:
    """Calls of functions and characters that are kept unread, when every character is a delta."""
    parser: Any = BY_NAME[name].open(TOOLS)
    work = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal work
        work += event in ("call", "c_call")

    old = sys.getprofile()
    sys.setprofile(count)
    try:
        for char in text:
            parser.feed(char)
            work += parser.source.unread
        parser.finish()
    finally:
        sys.setprofile(old)
    return work
