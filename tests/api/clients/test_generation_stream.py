"""The events of a generation between the engine and the response."""

from __future__ import annotations

import asyncio

import pytest

from protos import engine_pb2
from services.api.clients.generation_stream import GenerationStream, merge_deltas
from services.shared.errors import Cancelled, EngineBusy, EngineUnavailable, InvalidRequest
from tests.fakes.scripted_engine import delta, failed, finished, queued, started


def make_generation(*, requests: int = 1, answers: int = 1) -> GenerationStream:
    """A generation of requests 1, 2, … with the given number of answers each."""
    return GenerationStream(range(1, requests + 1), answers_per_request=answers)


def with_id(request_id: int, event: engine_pb2.Event) -> engine_pb2.Event:
    event.request_id = request_id
    return event


async def test_events_are_taken_in_order_and_the_last_finish_ends_the_generation() -> None:
    generation = make_generation(answers=2)
    for event in (started(), delta("a"), finished(index=1)):
        generation.push(with_id(1, event))

    assert [e.WhichOneof("kind") for e in await generation.take()] == [
        "started",
        "delta",
        "finished",
    ]
    assert not generation.is_over
    generation.push(with_id(1, finished(index=0)))
    assert generation.is_over


async def test_answers_of_several_requests_are_numbered_consecutively() -> None:
    generation = make_generation(requests=2, answers=2)
    generation.push(with_id(2, delta("c")))
    generation.push(with_id(1, delta("b", 1)))

    assert [(e.index, e.delta.text) for e in await generation.take()] == [(2, "c"), (1, "b")]


async def test_an_error_is_raised_after_the_events_before_it_were_taken() -> None:
    generation = make_generation()
    generation.push(with_id(1, delta("a")))
    generation.push(with_id(1, failed(EngineBusy("full", param="x", details={"k": [1]}))))
    generation.push(with_id(1, delta("late")))

    assert [e.delta.text for e in await generation.take()] == ["a"]
    with pytest.raises(EngineBusy, match="full") as caught:
        await generation.take()
    assert (caught.value.param, caught.value.details) == ("x", {"k": [1]})


async def test_an_answer_that_the_engine_cancelled_is_an_error() -> None:
    generation = make_generation()
    generation.push(with_id(1, finished("CANCELLED")))

    with pytest.raises(EngineUnavailable):
        await generation.take()


async def test_unread_deltas_are_merged_so_that_the_text_bounds_the_memory() -> None:
    generation = make_generation(answers=2)
    generation.push(with_id(1, queued(1)))
    for number in range(10_000):
        generation.push(with_id(1, delta(f"{number} ", index=number % 2)))

    events = await generation.take()
    assert len(events) < 200
    for index in (0, 1):
        text = "".join(e.delta.text for e in events if e.index == index)
        assert text == "".join(f"{number} " for number in range(index, 10_000, 2))
    assert sum(e.delta.tokens for e in events) == 10_000


def test_merging_keeps_log_probabilities_in_order() -> None:
    first, second = (engine_pb2.TokenLogprob(token=n) for n in (1, 2))
    found = merge_deltas([delta("a", logprobs=[first]), finished(), delta("b", logprobs=[second])])

    assert [e.WhichOneof("kind") for e in found] == ["delta", "finished"]
    assert found[0].delta.text == "ab"
    assert [entry.token for entry in found[0].delta.logprobs] == [1, 2]


async def test_a_wake_up_returns_an_empty_list() -> None:
    generation = make_generation()
    taking = asyncio.create_task(generation.take())
    await asyncio.sleep(0)
    generation.wake()

    assert await taking == []


async def test_abandoning_closes_the_generation_and_cancels_the_taker() -> None:
    generation = make_generation()
    closed: list[GenerationStream] = []
    generation.set_close_callback(closed.append)
    taking = asyncio.create_task(generation.take())
    await asyncio.sleep(0)
    generation.abandon()
    generation.close()

    with pytest.raises(Cancelled):
        await taking
    assert closed == [generation]
    assert generation.is_abandoned


async def test_log_probabilities_that_nobody_takes_end_the_generation() -> None:
    """A slow client with 64 answers and 20 alternatives each had the worker keep a gigabyte."""
    generation = make_generation()
    top = [engine_pb2.TokenLogprob()] * 20
    step = [engine_pb2.TokenLogprob(top=top)] * 100
    while not generation.is_over:
        event = delta("a")
        event.delta.logprobs.extend(step)
        generation.push(with_id(1, event))

    with pytest.raises(InvalidRequest, match="log-probabilities"):
        await generation.take()
