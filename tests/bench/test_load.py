"""The load generator against a server with scripted answers."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from bench import prompts
from bench.answer import StreamedAnswer, parse_recording
from bench.load import Target, percentile, run_closed_loop, run_open_loop, send_request, summarise
from bench.prompts import LoadRequest
from bench.wire import Recording, ServerAddress, record
from tests.bench.openai_server import ServerScript, serve

COMPLETION = LoadRequest(prompt="once upon", max_tokens=5)
CHAT = LoadRequest(messages=(("user", "hello"),), max_tokens=5)


def make_target(port: int, key: str = "") -> Target:
    return Target(ServerAddress("127.0.0.1", port, key), "some-model")


async def fetch_answer(script: ServerScript, request: LoadRequest = COMPLETION) -> StreamedAnswer:
    async with serve(script) as port:
        return await send_request(make_target(port), request, timeout_seconds=10)


@pytest.mark.parametrize("splits", [False, True], ids=["in one piece", "byte by byte"])
@pytest.mark.parametrize("load_request", [COMPLETION, CHAT], ids=["completion", "chat"])
async def test_a_stream_is_parsed_independently_of_its_packets(
    load_request: LoadRequest, splits: bool
) -> None:
    answer = await fetch_answer(ServerScript(splits_bytes=splits), load_request)

    assert answer.has_succeeded
    assert answer.text == "w0 w1 w2 w3 w4 "
    assert len(answer.arrival_times) == 5
    assert (answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens) == (7, 9, 3)
    assert sorted(answer.arrival_times) == list(answer.arrival_times)
    assert answer.sent_at <= answer.arrival_times[0]
    assert answer.ended_at is not None
    assert answer.ended_at >= answer.arrival_times[-1]


async def test_without_usage_the_events_are_counted_as_tokens() -> None:
    assert (await fetch_answer(ServerScript(counts_usage=False))).completion_tokens == 5


async def test_the_request_is_greedy_and_streamed_and_carries_the_key() -> None:
    script = ServerScript()
    async with serve(script) as port:
        await send_request(make_target(port, "secret"), COMPLETION)

    assert script.authorization_headers == ["Bearer secret"]
    assert script.request_bodies == [
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
    ("script", "error"),
    [
        (ServerScript(status=503), "status 503"),
        (ServerScript(error_after=2), "it broke"),
        (ServerScript(tokens=0), "no text"),
    ],
    ids=["refused", "fails midway", "empty"],
)
async def test_an_error_of_the_server_is_reported(script: ServerScript, error: str) -> None:
    answer = await fetch_answer(script)

    assert not answer.has_succeeded
    assert error in (answer.error or "")


async def test_a_refused_connection_is_an_error_not_an_exception() -> None:
    async with serve(ServerScript()) as port:
        pass

    answer = await send_request(make_target(port), COMPLETION)

    assert "no connection" in (answer.error or "")


async def test_a_connection_closed_midway_is_an_error() -> None:
    answer = await fetch_answer(ServerScript(disconnect_after=2))

    assert len(answer.arrival_times) == 2
    assert "before the end of the answer" in (answer.error or "")


async def test_a_stream_that_does_not_end_times_out() -> None:
    script = ServerScript(hold=asyncio.Event())
    async with serve(script) as port:
        answer = await send_request(make_target(port), COMPLETION, timeout_seconds=0.2)
        assert script.hold is not None
        script.hold.set()

    assert "no end within 0.2 s" in (answer.error or "")


async def test_an_abandoned_stream_keeps_the_text_it_received() -> None:
    script = ServerScript(hold=asyncio.Event())
    recording = Recording(progress=asyncio.Event())
    async with serve(script) as port, asyncio.timeout(10):
        target = make_target(port)
        task = asyncio.create_task(
            record(target.address, target.encode(COMPLETION), recording, timeout_seconds=10)
        )
        assert recording.progress is not None
        while not parse_recording(recording, was_abandoned=True).arrival_times:
            recording.progress.clear()
            await recording.progress.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert script.hold is not None
        script.hold.set()

    answer = parse_recording(recording, was_abandoned=True)
    assert answer.has_succeeded
    assert answer.text == "w0 "


async def test_a_closed_loop_sends_all_requests_with_a_bounded_number_at_a_time() -> None:
    script = ServerScript(barrier=asyncio.Barrier(3))
    async with serve(script) as port, asyncio.timeout(10):
        requests = prompts.build_distinct(21, words=3, max_tokens=5, seed=1)
        answers = await run_closed_loop(make_target(port), requests, clients=3)

    assert script.max_running_requests == 3
    assert all(answer.has_succeeded for answer in answers)
    assert sorted(body["prompt"] for body in script.request_bodies) == sorted(
        a.prompt for a in requests if a.prompt
    )


async def test_an_open_loop_does_not_wait_for_answers() -> None:
    script = ServerScript(hold=asyncio.Event())
    async with serve(script) as port, asyncio.timeout(10):
        requests = prompts.build_distinct(8, words=3, max_tokens=5, seed=1)
        loop = asyncio.create_task(run_open_loop(make_target(port), requests, rate=200))
        while script.running_requests < 8:
            await asyncio.sleep(0.005)
        assert script.hold is not None
        script.hold.set()
        answers = await loop

    assert script.max_running_requests == 8
    assert all(answer.has_succeeded for answer in answers)


def make_answer(**changes: object) -> StreamedAnswer:
    answer = StreamedAnswer(
        sent_at=10.0,
        ended_at=12.0,
        arrival_times=(11.0, 11.5, 12.0),
        text="abc",
        prompt_tokens=4,
        completion_tokens=3,
        cached_tokens=0,
        error=None,
    )
    return dataclasses.replace(answer, **changes)  # type: ignore[arg-type]


def test_a_summary_counts_only_successful_answers() -> None:
    summary = summarise(
        [
            make_answer(),
            make_answer(
                sent_at=11.0, ended_at=14.0, arrival_times=(13.0, 14.0), completion_tokens=5
            ),
            make_answer(error="it broke"),
        ]
    )

    assert (summary.requests, summary.failed) == (3, 1)
    assert summary.seconds == 4.0
    assert summary.completion_tokens == 8
    assert summary.tokens_per_second == 2.0
    assert summary.first_token_p50 == 1.5
    assert (summary.gap_p50, summary.gap_max) == (0.5, 1.0)


def test_a_summary_without_successful_answers_has_no_times() -> None:
    summary = summarise([make_answer(error="it broke")])

    assert (summary.tokens_per_second, summary.first_token_p50, summary.gap_max) == (
        0.0,
        None,
        None,
    )


def test_gaps_of_a_span_are_those_that_overlap_it() -> None:
    answer = make_answer(arrival_times=(1.0, 2.0, 4.0, 7.0, 11.0))

    assert answer.gaps() == [1.0, 2.0, 3.0, 4.0]
    assert answer.gaps(since=4.5) == [3.0, 4.0]
    assert answer.gaps(until=3.0) == [1.0, 2.0]
    assert answer.gaps(since=2.5, until=3.0) == [2.0]
    assert make_answer(arrival_times=(1.0,)).gaps() == []


def test_texts_of_one_packet_arrive_at_the_same_time() -> None:
    assert make_answer(arrival_times=(1.0, 1.0, 3.0, 3.0, 3.0, 4.0)).gaps() == [2.0, 1.0]


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [([], 50, None), ([3.0], 95, 3.0), ([1.0, 2.0, 3.0], 50, 2.0), ([0.0, 100.0], 95, 95.0)],
)
def test_percentiles_interpolate(values: list[float], percent: int, expected: float | None) -> None:
    assert percentile(values, percent) == expected
