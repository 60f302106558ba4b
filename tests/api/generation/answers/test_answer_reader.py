"""From the engine's deltas to thinking, content and calls, and what is counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from protos import engine_pb2
from services.api.generation.answers.accumulator import Accumulator, Call
from services.api.generation.answers.answer_reader import EventReader
from services.api.generation.answers.events import (
    Finished,
    FinishReason,
    GenerationEvent,
    ReasoningDelta,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
)
from services.api.parsing.parser_choice import choose_parser
from services.api.parsing.parts import OutputParser
from tests.api.parsing.tag_dialect import TagDialect
from tests.fakes.scripted_engine import delta, finished, started

CALL = '<call>f {"a": 1}</call>'
HALF = '<call>f {"a"'


def make_parser() -> Callable[[], OutputParser]:
    made = choose_parser(
        "<think>",
        prompt="",
        prefill=None,
        tools=[{"function": {"name": "f"}}],
        separates_reasoning=True,
        dialect=TagDialect(),
    )
    assert made is not None
    return made


def make_reader(answers: int = 1, **changes: Any) -> EventReader:
    options = {"with_logprobs": False, "is_single_call": False, **changes}
    return EventReader(answers, make_parser(), **options)


def read_end(*events: engine_pb2.Event, **changes: Any) -> Finished:
    end = make_reader(**changes).read(events)[-1]
    assert isinstance(end, Finished)
    return end


def test_the_parts_come_in_order_and_the_end_names_the_calls() -> None:
    events = make_reader().read(
        [started(), delta("<think>"), delta("Hm."), delta("</think>"), delta(f"ok{CALL}")]
        + [finished()]
    )

    assert events[:-1] == [
        Started(7, 3),
        ReasoningDelta(0, "Hm."),
        TextDelta(0, "ok"),
        ToolCallStarted(0, 0, "id0", "f"),
        ToolCallDelta(0, 0, '{"a": 1}'),
        ToolCallEnded(0, 0),
    ]
    assert isinstance(events[-1], Finished)
    assert events[-1].reason is FinishReason.TOOL_CALLS


@pytest.mark.parametrize(
    ("text", "engine_reason", "reason"),
    [
        ("ok", "STOP", FinishReason.STOP),
        (CALL, "STOP", FinishReason.TOOL_CALLS),
        (CALL, "LENGTH", FinishReason.LENGTH),
        (HALF, "LENGTH", FinishReason.LENGTH),
        (HALF, "STOP", FinishReason.STOP),
        (CALL + HALF, "LENGTH", FinishReason.LENGTH),
    ],
)
def test_the_reason_of_the_end(text: str, engine_reason: str, reason: FinishReason) -> None:
    assert read_end(delta(text), finished(engine_reason)).reason is reason


@pytest.mark.parametrize(
    ("texts", "tokens"),
    [
        (["Pa", "ris"], 0),
        (["<think>", "\n", "a", "b", "\n", "</think>", "\n\n", "c", "d"], 4),
        (["<think>", "\n\n", "</think>", "c"], 0),
        (["<think>", "a", "b", "\n"], 4),
        (["<think>", "a", CALL], 3),
        (["<thi", "n"], 0),
    ],
    ids=str,
)
def test_the_tokens_of_the_thinking_are_counted(texts: list[str], tokens: int) -> None:
    end = read_end(*(delta(text) for text in texts), finished(tokens=len(texts)))

    assert (end.reasoning_tokens, end.completion_tokens) == (tokens, len(texts))


def test_the_tokens_of_a_merged_delta_are_split_by_characters() -> None:
    merged = engine_pb2.Event(delta=engine_pb2.Delta(text="<think>abcdef</think>xy", tokens=8))

    assert read_end(merged, finished()).reasoning_tokens == 6


def token(text: str, written: str | None = None) -> engine_pb2.Event:
    logprob = engine_pb2.TokenLogprob(text=text.encode(), logprob=-1.0)
    return delta(text if written is None else written, logprobs=[logprob])


@pytest.mark.parametrize("text", ["a", "<think>a</think>b"])
def test_the_log_probability_of_a_stop_string_is_not_lost(text: str) -> None:
    """Its token adds no text. Without tools and thinking, its log-probability is there, too."""
    reader = make_reader(with_logprobs=True)
    events = reader.read([token(text), token("STOP", ""), finished()])

    found = [entry for e in events if isinstance(e, TextDelta) for entry in e.logprobs]
    assert found == [TokenLogprob(text.encode(), -1.0), TokenLogprob(b"STOP", -1.0)]


@pytest.mark.parametrize("text", ["<think>a", CALL])
def test_a_stop_string_after_thinking_or_a_call_is_no_content(text: str) -> None:
    events = make_reader(with_logprobs=True).read([token(text), token("STOP", ""), finished()])

    assert not any(isinstance(event, TextDelta) for event in events)


def test_log_probabilities_stay_with_the_content() -> None:
    reader = make_reader(with_logprobs=True)
    texts = ["<think>", "a", "</think>", "b", "c", CALL]
    events = reader.read([*map(token, texts), finished()])

    found = [event.logprobs for event in events if isinstance(event, TextDelta)]
    assert found == [
        (TokenLogprob(b"</think>", -1.0), TokenLogprob(b"b", -1.0)),
        (TokenLogprob(b"c", -1.0),),
    ]


def test_a_single_call_ends_the_answer() -> None:
    reader = make_reader(is_single_call=True)
    events = reader.read([started(), delta("a"), delta(CALL + CALL), delta("b")])

    assert reader.is_cut
    assert [type(event) for event in events] == [
        Started,
        TextDelta,
        ToolCallStarted,
        ToolCallDelta,
        ToolCallEnded,
        Finished,
    ]
    assert events[-1] == Finished(
        index=0,
        reason=FinishReason.TOOL_CALLS,
        prompt_tokens=7,
        cached_tokens=3,
        completion_tokens=2,
    )


def test_a_call_in_the_thinking_ends_nothing() -> None:
    reader = make_reader(is_single_call=True)
    events = reader.read([started(), delta("<think>"), delta("a"), delta(CALL + CALL)])

    assert [type(event) for event in events] == [Started, ReasoningDelta, ReasoningDelta]
    assert not reader.is_cut


def test_a_single_call_waits_for_the_other_answers() -> None:
    reader = make_reader(2, is_single_call=True)
    first = reader.read([delta(CALL, 0), delta("a", 1), delta("more", 0)])
    was_cut = reader.is_cut
    second = reader.read([delta(CALL, 1)])

    assert (was_cut, reader.is_cut) == (False, True)
    ends = [(e.index, e.reason) for e in [*first, *second] if isinstance(e, Finished)]
    assert ends == [(0, FinishReason.TOOL_CALLS), (1, FinishReason.TOOL_CALLS)]


def test_an_answer_that_ends_after_its_single_call_has_the_engines_numbers() -> None:
    reader = make_reader(2, is_single_call=True)
    events = reader.read([delta(CALL, 0), finished("LENGTH", index=0, tokens=9), delta("a", 1)])

    (end,) = [event for event in events if isinstance(event, Finished)]
    assert (end.reason, end.completion_tokens) == (FinishReason.TOOL_CALLS, 9)
    assert not reader.is_cut


def test_whole_answers_have_thinking_content_and_calls() -> None:
    events: list[GenerationEvent] = make_reader(2).read(
        [delta("<think>a</think>b", 0), delta(CALL + HALF, 1), delta("c", 0)]
        + [finished(index=0), finished("LENGTH", index=1)]
    )
    accumulator = Accumulator(2)
    accumulator.add(events)
    first, second = accumulator.build()

    assert (first.text, first.reasoning, first.calls) == ("bc", "a", ())
    assert (second.text, second.reasoning) == ("", "")
    assert second.calls == (Call("id0", "f", '{"a": 1}'), Call("id1", "f", '{"a"'))
