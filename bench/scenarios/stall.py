"""How a long prompt that arrives delays a running stream, and how long that prompt waits."""

from __future__ import annotations

import asyncio

from bench.answer import StreamedAnswer, parse_recording
from bench.load import Target, percentile, send_request
from bench.prompts import LoadRequest, build_text
from bench.results import Results
from bench.scenarios.plan import Plan, estimate_words, raise_on_error, rotate, warm_up
from bench.servers.peers import LLAMA_SERVER
from bench.servers.start import SPINDLL, RunningServer, start_servers
from bench.wire import Recording, record

NAME = "stall"
PROMPT_TOKENS = (4096, 8192)
_CALM_EVENTS = 40
_WAIT_SECONDS = 600.0
_STREAM = LoadRequest(prompt=build_text(12, 77), max_tokens=4000)


def run(plan: Plan, results: Results) -> None:
    """Measure the gaps of one stream, undisturbed and while the prompt is computed."""
    options = plan.server_options(context_tokens=16_384, sequences=4)
    sizes = PROMPT_TOKENS[:1] if plan.is_quick else PROMPT_TOKENS
    with start_servers((SPINDLL, LLAMA_SERVER), options, plan.peers, plan.workdir) as servers:
        for server in servers:
            warm_up(server)
        words = estimate_words(servers[0].target, 1000)
        for round_number in range(plan.rounds):
            for tokens in sizes:
                for server in rotate(servers, round_number):
                    prompt = build_text(words * tokens // 1000, 31 * round_number + tokens)
                    _measure(results, server, prompt, f"{tokens} prompt tokens", round_number)


def _measure(
    results: Results, server: RunningServer, prompt: str, case: str, round_number: int
) -> None:
    stream, long = asyncio.run(_send_beside_stream(server.target, prompt))
    raise_on_error([stream, long], server)
    first = long.arrival_times[0]
    calm = stream.gaps(until=long.sent_at)[:-1]  # the last gap extends into the disturbed time
    disturbed = stream.gaps(since=long.sent_at, until=first)
    calm_p95, disturbed_p95 = percentile(calm, 95), percentile(disturbed, 95)
    assert calm_p95 is not None
    assert disturbed_p95 is not None
    results.add(
        NAME,
        case,
        server.name,
        round_number,
        disturbed_gap_p95_ms=1000 * disturbed_p95,
        disturbed_gap_max_ms=1000 * max(disturbed),
        calm_gap_p95_ms=1000 * calm_p95,
        disturbed_over_calm_times=disturbed_p95 / calm_p95,
        prompt_first_token_ms=1000 * (first - long.sent_at),
        prompt_tokens=long.prompt_tokens,
    )


async def _send_beside_stream(target: Target, prompt: str) -> tuple[StreamedAnswer, StreamedAnswer]:
    """Send the prompt while a stream runs; abandon the stream when the prompt is answered."""
    recording = Recording(progress=asyncio.Event())
    async with asyncio.TaskGroup() as group:
        streaming = group.create_task(
            record(target.address, target.encode(_STREAM), recording, timeout_seconds=_WAIT_SECONDS)
        )
        await _wait_for_arrivals(recording, _CALM_EVENTS)
        long = await send_request(target, LoadRequest(prompt=prompt, max_tokens=2))
        await _wait_for_arrivals(recording, len(recording.arrivals) + 2)
        streaming.cancel()
    return parse_recording(recording, was_abandoned=True), long


async def _wait_for_arrivals(recording: Recording, count: int) -> None:
    assert recording.progress is not None
    async with asyncio.timeout(_WAIT_SECONDS):
        while len(recording.arrivals) < count and recording.ended_at is None:
            recording.progress.clear()
            await recording.progress.wait()
