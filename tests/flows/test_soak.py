"""Many streams for a long time: every answer is as recorded, and memory does not grow."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from bench.meter import resident_bytes
from tests.flows.stack import RunningStack, build_greedy_body, get_text, load_recorded_answers
from tests.waiting import until

STREAMS = 64
MIN_QUESTIONS = 2  # of each client, however slow the machine
WARM_UP_SECONDS = 60.0  # after which every process has run all its code
MAX_GROWTH = 0.03


class Soak:
    """Clients that check the answers they stream. One in ten streams is abandoned midway."""

    def __init__(self, stack: RunningStack, answers: dict[str, str]) -> None:
        self.outcomes: Counter[str] = Counter()
        self.wrong_answers: list[tuple[str, str]] = []
        self._stack = stack
        self._answers = answers

    async def run(self, seconds: float) -> None:
        ends_at = time.monotonic() + seconds
        limits = httpx.Limits(max_connections=STREAMS)
        headers = {"Authorization": f"Bearer {self._stack.key}"}
        async with (
            httpx.AsyncClient(
                base_url=self._stack.url,
                headers=headers,
                timeout=120,
                limits=limits,
                trust_env=False,
            ) as http,
            asyncio.TaskGroup() as group,
        ):
            for first in range(STREAMS):
                group.create_task(self._client(http, first, ends_at))

    async def _client(self, http: httpx.AsyncClient, first: int, ends_at: float) -> None:
        questions = itertools.islice(itertools.cycle(self._answers), first, None)
        for number, question in enumerate(questions, start=first):
            if number >= first + MIN_QUESTIONS and time.monotonic() >= ends_at:
                return
            await self._ask(http, question, is_abandoned=number % 10 == 9)

    async def _ask(self, http: httpx.AsyncClient, question: str, *, is_abandoned: bool) -> None:
        body = build_greedy_body(question, stream=True)
        text = ""
        async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
            assert answer.status_code == 200, (await answer.aread()).decode()
            async for part in _iterate_texts(answer):
                text += part
                if is_abandoned and text:
                    self.outcomes["abandoned"] += 1
                    return
        if text == self._answers[question]:
            self.outcomes["correct"] += 1
        else:
            self.wrong_answers.append((question, text))


async def _iterate_texts(answer: httpx.Response) -> AsyncIterator[str]:
    """Yield the texts of a stream, which must end with [DONE]."""
    async for line in answer.aiter_lines():
        if line == "data: [DONE]":
            return
        if line.startswith("data: "):
            yield get_text(json.loads(line.removeprefix("data: ")))
    raise AssertionError("the stream broke off")


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(5.0, id="short"),
        pytest.param(600.0, id="ten minutes", marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
    ],
)
def test_many_streams_give_the_recorded_answers(tmp_path: Path, seconds: float) -> None:
    stack = RunningStack(tmp_path / "data", SPINDLL_MAX_SEQUENCES=str(STREAMS))
    try:
        assert stack.up().returncode == 0, stack.logs()
        soak = Soak(stack, load_recorded_answers(r"(fact|count)-\d+"))
        growth = asyncio.run(_measure_growth(soak, stack, seconds))

        assert soak.wrong_answers == []
        assert soak.outcomes["correct"] > STREAMS
        assert soak.outcomes["abandoned"] > 0
        assert growth is None or growth < MAX_GROWTH, f"memory grew by {100 * growth:.1f} %"
        until(lambda: _is_idle(stack), "a request still runs")
        print(f"{soak.outcomes}, memory grew by {growth}")
    finally:
        stack.down()


async def _measure_growth(soak: Soak, stack: RunningStack, seconds: float) -> float | None:
    """Run the soak; returns the growth of memory after the warm-up, None for a short run."""
    if seconds <= 2 * WARM_UP_SECONDS:
        await soak.run(seconds)
        return None
    await soak.run(WARM_UP_SECONDS)
    before = resident_bytes(stack.state().pid)
    await soak.run(seconds - WARM_UP_SECONDS)
    return resident_bytes(stack.state().pid) / before - 1


def _is_idle(stack: RunningStack) -> bool:
    with stack.http() as http:
        (model,) = http.get("/v1/status").json()["engine"]["models"]
    return bool(model["running"] == model["queued"] == 0)
