"""The load generator against a server that does as it is told."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from bench import prompts
from bench.answer import Answer, read
from bench.load import Target, ask_one, closed_loop, open_loop, percentile, summarise
from bench.prompts import Ask
from bench.wire import Address, Recording, record
from tests.bench.openai_server import Script, serving

ASK = Ask(prompt="once upon", max_tokens=5)
CHAT = Ask(messages=(("user", "hello"),), max_tokens=5)


def target_at(port: int, key: str = "") -> Target:
    return Target(Address("127.0.0.1", port, key), "some-model")


async def answer_of(script: Script, ask: Ask = ASK) -> Answer:
    async with serving(script) as port:
        return await ask_one(target_at(port), ask, timeout_seconds=10)


@pytest.mark.parametrize("splits", [False, True], ids=["in one piece", "byte by byte"])
@pytest.mark.parametrize("ask", [ASK, CHAT], ids=["completion", "chat"])
async def test_a_stream_is_read_whatever_its_packets(ask: Ask, splits: bool) -> None:
    answer = await answer_of(Script(splits_bytes=splits), ask)

    assert answer.is_good
    assert answer.text == "w0 w1 w2 w3 w4 "
    assert len(answer.events) == 5
    assert (answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens) == (7, 9, 3)
    assert sorted(answer.events) == list(answer.events)
    assert answer.sent_at <= answer.events[0]
    assert answer.ended_at is not None
    assert answer.ended_at >= answer.events[-1]


async def test_without_usage_the_events_are_counted() -> None:
    assert (await answer_of(Script(counts_usage=False))).completion_tokens == 5


async def test_the_request_is_greedy_and_streamed_and_carries_the_key() -> None:
    script = Script()
    async with serving(script) as port:
        await ask_one(target_at(port, "secret"), ASK)

    assert script.keys == ["Bearer secret"]
    assert script.asked == [
        {
            "model": "some-model",
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0,
            "max_tokens": 5,
            "ignore_eos": True,
            "cache_prompt": False,
            "prompt": "once upon",
        }
    ]


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        (Script(status=503), "status 503"),
        (Script(error_after=2), "it broke"),
        (Script(tokens=0), "no text"),
    ],
    ids=["refused", "fails midway", "empty"],
)
async def test_what_went_wrong_is_said(script: Script, problem: str) -> None:
    answer = await answer_of(script)

    assert not answer.is_good
    assert problem in (answer.problem or "")


async def test_nobody_listening_is_a_problem_not_an_exception() -> None:
    async with serving(Script()) as port:
        pass

    answer = await ask_one(target_at(port), ASK)

    assert "no connection" in (answer.problem or "")


async def test_a_server_that_hangs_up_midway_is_a_problem() -> None:
    answer = await answer_of(Script(breaks_after=2))

    assert len(answer.events) == 2
    assert "before the answer's end" in (answer.problem or "")


async def test_a_server_that_never_ends_is_given_up() -> None:
    script = Script(hold=asyncio.Event())
    async with serving(script) as port:
        answer = await ask_one(target_at(port), ASK, timeout_seconds=0.2)
        assert script.hold is not None
        script.hold.set()

    assert "no end within 0.2 s" in (answer.problem or "")


async def test_a_stream_that_was_left_on_purpose_keeps_what_it_had() -> None:
    script = Script(hold=asyncio.Event())
    recording = Recording(progress=asyncio.Event())
    async with serving(script) as port, asyncio.timeout(10):
        target = target_at(port)
        task = asyncio.create_task(
            record(target.address, target.request(ASK), recording, timeout_seconds=10)
        )
        assert recording.progress is not None
        while not read(recording, was_left=True).events:
            recording.progress.clear()
            await recording.progress.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert script.hold is not None
        script.hold.set()

    answer = read(recording, was_left=True)
    assert answer.is_good
    assert answer.text == "w0 "


async def test_a_closed_loop_runs_so_many_at_a_time_and_all_in_the_end() -> None:
    script = Script(meet=asyncio.Barrier(3))
    async with serving(script) as port, asyncio.timeout(10):
        asks = prompts.distinct(21, words=3, max_tokens=5, seed=1)
        answers = await closed_loop(target_at(port), asks, clients=3)

    assert script.most_running == 3
    assert all(answer.is_good for answer in answers)
    assert sorted(body["prompt"] for body in script.asked) == sorted(
        a.prompt for a in asks if a.prompt
    )


async def test_an_open_loop_does_not_wait_for_answers() -> None:
    script = Script(hold=asyncio.Event())
    async with serving(script) as port, asyncio.timeout(10):
        asks = prompts.distinct(8, words=3, max_tokens=5, seed=1)
        loop = asyncio.create_task(open_loop(target_at(port), asks, rate=200))
        while script.running < 8:
            await asyncio.sleep(0.005)
        assert script.hold is not None
        script.hold.set()
        answers = await loop

    assert script.most_running == 8
    assert all(answer.is_good for answer in answers)


def make_answer(**changes: object) -> Answer:
    answer = Answer(
        sent_at=10.0,
        ended_at=12.0,
        events=(11.0, 11.5, 12.0),
        text="abc",
        prompt_tokens=4,
        completion_tokens=3,
        cached_tokens=0,
        problem=None,
    )
    return dataclasses.replace(answer, **changes)  # type: ignore[arg-type]


def test_a_summary_counts_only_what_was_answered() -> None:
    summary = summarise(
        [
            make_answer(),
            make_answer(sent_at=11.0, ended_at=14.0, events=(13.0, 14.0), completion_tokens=5),
            make_answer(problem="it broke"),
        ]
    )

    assert (summary.requests, summary.failed) == (3, 1)
    assert summary.seconds == 4.0
    assert summary.completion_tokens == 8
    assert summary.tokens_per_second == 2.0
    assert summary.first_token_p50 == 1.5
    assert (summary.gap_p50, summary.gap_max) == (0.5, 1.0)


def test_a_summary_of_nothing_has_no_times() -> None:
    summary = summarise([make_answer(problem="it broke")])

    assert (summary.tokens_per_second, summary.first_token_p50, summary.gap_max) == (
        0.0,
        None,
        None,
    )


def test_gaps_of_a_span_are_those_that_touch_it() -> None:
    answer = make_answer(events=(1.0, 2.0, 4.0, 7.0, 11.0))

    assert answer.gaps() == [1.0, 2.0, 3.0, 4.0]
    assert answer.gaps(since=4.5) == [3.0, 4.0]
    assert answer.gaps(until=3.0) == [1.0, 2.0]
    assert answer.gaps(since=2.5, until=3.0) == [2.0]
    assert make_answer(events=(1.0,)).gaps() == []


def test_texts_of_one_packet_arrive_together() -> None:
    assert make_answer(events=(1.0, 1.0, 3.0, 3.0, 3.0, 4.0)).gaps() == [2.0, 1.0]


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [([], 50, None), ([3.0], 95, 3.0), ([1.0, 2.0, 3.0], 50, 2.0), ([0.0, 100.0], 95, 95.0)],
)
def test_percentiles_interpolate(values: list[float], percent: int, expected: float | None) -> None:
    assert percentile(values, percent) == expected
