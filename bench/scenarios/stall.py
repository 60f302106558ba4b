"""What a running stream notices of a long prompt that arrives, and what that prompt waits."""

from __future__ import annotations

import asyncio

from bench.answer import Answer, read
from bench.load import Target, ask_one, percentile
from bench.peers import LLAMA_SERVER
from bench.prompts import Ask, text
from bench.results import Results
from bench.scenarios.plan import Plan, check, interleaved, warm_up, words_of
from bench.servers import OURS, Running, running
from bench.wire import Recording, record

NAME = "stall"
PROMPT_TOKENS = (4096, 8192)
_CALM_EVENTS = 40
_WAIT_SECONDS = 600.0
_STREAM = Ask(prompt=text(12, 77), max_tokens=4000)


def run(plan: Plan, results: Results) -> None:
    """Gaps of one stream, undisturbed and while the prompt is computed."""
    shape = plan.shape(context_tokens=16_384, sequences=4)
    sizes = PROMPT_TOKENS[:1] if plan.is_quick else PROMPT_TOKENS
    with running((OURS, LLAMA_SERVER), shape, plan.peers, plan.workdir) as servers:
        for server in servers:
            warm_up(server)
        words = words_of(servers[0].target, 1000)
        for number in range(plan.rounds):
            for tokens in sizes:
                for server in interleaved(servers, number):
                    prompt = text(words * tokens // 1000, 31 * number + tokens)
                    _measure(results, server, prompt, f"{tokens} prompt tokens", number)


def _measure(results: Results, server: Running, prompt: str, case: str, number: int) -> None:
    stream, long = asyncio.run(_disturbed(server.target, prompt))
    check([stream, long], server)
    first = long.events[0]
    calm = stream.gaps(until=long.sent_at)[:-1]  # the last one reaches into what follows
    disturbed = stream.gaps(since=long.sent_at, until=first)
    calm_p95, disturbed_p95 = percentile(calm, 95), percentile(disturbed, 95)
    assert calm_p95 is not None
    assert disturbed_p95 is not None
    results.put(
        NAME,
        case,
        server.name,
        number,
        disturbed_gap_p95_ms=1000 * disturbed_p95,
        disturbed_gap_max_ms=1000 * max(disturbed),
        calm_gap_p95_ms=1000 * calm_p95,
        disturbed_over_calm_times=disturbed_p95 / calm_p95,
        prompt_first_token_ms=1000 * (first - long.sent_at),
        prompt_tokens=long.prompt_tokens,
    )


async def _disturbed(target: Target, prompt: str) -> tuple[Answer, Answer]:
    """A stream, left when the long prompt's answer is there."""
    recording = Recording(progress=asyncio.Event())
    async with asyncio.TaskGroup() as group:
        streaming = group.create_task(
            record(
                target.address, target.request(_STREAM), recording, timeout_seconds=_WAIT_SECONDS
            )
        )
        await _arrived(recording, _CALM_EVENTS)
        long = await ask_one(target, Ask(prompt=prompt, max_tokens=2))
        await _arrived(recording, len(recording.arrivals) + 2)
        streaming.cancel()
    return read(recording, was_left=True), long


async def _arrived(recording: Recording, count: int) -> None:
    assert recording.progress is not None
    async with asyncio.timeout(_WAIT_SECONDS):
        while len(recording.arrivals) < count and recording.ended_at is None:
            recording.progress.clear()
            await recording.progress.wait()
