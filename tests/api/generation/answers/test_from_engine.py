"""The engine's events as the pipeline's."""

from __future__ import annotations

from protos import engine_pb2
from services.api.generation.answers.events import (
    Finished,
    FinishReason,
    QueueReason,
    Started,
    TextDelta,
    Timings,
    TokenLogprob,
    Waiting,
)
from services.api.generation.answers.from_engine import read_events
from tests.fakes.scripted_engine import delta, finished, queued, started


def test_every_kind_of_event_is_read() -> None:
    assert read_events(
        [queued(2), started(), delta("a"), finished("LENGTH")], with_logprobs=False
    ) == [
        Waiting(2, QueueReason.SLOTS),
        Started(7, 3),
        TextDelta(0, "a"),
        Finished(
            index=0,
            reason=FinishReason.LENGTH,
            prompt_tokens=7,
            cached_tokens=3,
            completion_tokens=2,
            timings=Timings(
                queue_seconds=read_float(0.001),
                prompt_seconds=read_float(0.02),
                generate_seconds=0.5,
            ),
        ),
    ]


def read_float(value: float) -> float:
    """The value after a trip through the 32 bits of a proto's float."""
    return engine_pb2.Timings(queue_seconds=value).queue_seconds


def test_the_deltas_of_an_answer_are_merged_and_its_end_comes_after_them() -> None:
    events = [delta("a"), delta("x", 1), delta("b"), finished(index=1), delta("c")]
    found = read_events(events, with_logprobs=False)

    assert found[:2] == [TextDelta(0, "abc"), TextDelta(1, "x")]
    assert [event.index for event in found if isinstance(event, Finished)] == [1]
    assert len(found) == 3


def test_log_probabilities_are_read_with_the_likeliest_tokens_and_stay_in_order() -> None:
    top = engine_pb2.TokenLogprob(text=b"y", logprob=-2.0)
    first = engine_pb2.TokenLogprob(text=b"a", logprob=-1.0, top=[top])
    second = engine_pb2.TokenLogprob(text=b"\xc3", logprob=-0.5)

    events = [delta("a", logprobs=[first]), delta("", logprobs=[second])]

    assert read_events(events, with_logprobs=True) == [
        TextDelta(
            0,
            "a",
            (TokenLogprob(b"a", -1.0, (TokenLogprob(b"y", -2.0),)), TokenLogprob(b"\xc3", -0.5)),
        )
    ]


def test_where_the_tokens_of_a_prompt_came_from_is_read_at_its_start() -> None:
    event = started()
    event.started.MergeFrom(engine_pb2.Started(stored_tokens=2, disk_tokens=1))

    assert read_events([event], with_logprobs=False) == [Started(7, 3, 2, disk_tokens=1)]


def test_what_was_stored_of_a_prompt_is_read() -> None:
    event = finished()
    event.finished.MergeFrom(
        engine_pb2.Finished(stored_tokens=2, disk_tokens=1, tier="disk", saved_seconds=1.5)
    )

    (end,) = read_events([event], with_logprobs=False)

    assert isinstance(end, Finished)
    assert (end.stored_tokens, end.disk_tokens, end.tier, end.saved_seconds) == (2, 1, "disk", 1.5)
