"""Many streams for long: every answer is the one the question gets alone, and memory stays flat."""

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
from tests.flows.stack import RunningStack, greedy, recorded, text_of
from tests.waiting import until

STREAMS = 64
WARM_SECONDS = 60.0  # after which every process has met everything it will meet
MOST_GROWTH = 0.03


class Soak:
    """Streams that ask, and check what comes. One in ten is left in the middle."""

    def __init__(self, stack: RunningStack, answers: dict[str, str]) -> None:
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[tuple[str, str]] = []
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
            if time.monotonic() >= ends_at:
                return
            await self._ask(http, question, is_left=number % 10 == 9)

    async def _ask(self, http: httpx.AsyncClient, question: str, *, is_left: bool) -> None:
        body = greedy(question, stream=True)
        said = ""
        async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
            assert answer.status_code == 200, (await answer.aread()).decode()
            async for text in _texts(answer):
                said += text
                if is_left and said:
                    self.outcomes["left"] += 1
                    return
        if said == self._answers[question]:
            self.outcomes["right"] += 1
        else:
            self.wrong.append((question, said))


async def _texts(answer: httpx.Response) -> AsyncIterator[str]:
    """Of a stream that ends as it should."""
    async for line in answer.aiter_lines():
        if line == "data: [DONE]":
            return
        if line.startswith("data: "):
            yield text_of(json.loads(line.removeprefix("data: ")))
    raise AssertionError("the stream broke off")


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(5.0, id="short"),
        pytest.param(600.0, id="ten minutes", marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
    ],
)
def test_many_streams_lose_nothing_and_say_nothing_wrong(tmp_path: Path, seconds: float) -> None:
    stack = RunningStack(tmp_path / "data", SPINDLL_MAX_SEQUENCES=str(STREAMS))
    try:
        assert stack.up().returncode == 0, stack.logs()
        soak = Soak(stack, recorded(r"(fact|count)-\d+"))
        grown = asyncio.run(_growth(soak, stack, seconds))

        assert soak.wrong == []
        assert soak.outcomes["right"] > STREAMS
        assert soak.outcomes["left"] > 0
        assert grown is None or grown < MOST_GROWTH, f"memory grew by {100 * grown:.1f} %"
        until(lambda: _is_idle(stack), "something still runs")
        print(f"{soak.outcomes}, memory grew by {grown}")
    finally:
        stack.down()


async def _growth(soak: Soak, stack: RunningStack, seconds: float) -> float | None:
    """Run; by how much all processes' memory grew since it was warm, where that can be told."""
    if seconds <= 2 * WARM_SECONDS:
        await soak.run(seconds)
        return None
    await soak.run(WARM_SECONDS)
    before = resident_bytes(stack.state().pid)
    await soak.run(seconds - WARM_SECONDS)
    return resident_bytes(stack.state().pid) / before - 1


def _is_idle(stack: RunningStack) -> bool:
    with stack.http() as http:
        (model,) = http.get("/v1/status").json()["engine"]["models"]
    return bool(model["running"] == model["queued"] == 0)
