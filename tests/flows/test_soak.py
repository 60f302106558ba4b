"""Many streams for a long time: every answer is right, no runner ends, and memory does not grow.

The clients use all lanes and two keys, so that priorities, preemption and realms mix. Beside them,
a model with a sliding window answers prompts that begin alike, in a memory that is too small for
them. It is compared with its own answers before the load.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.meter import resident_bytes
from tests.flows.stack import RunningStack, build_greedy_body, get_text, load_recorded_answers
from tests.waiting import until

STREAMS = 64
MIN_QUESTIONS = 2  # of each client, however slow the machine
WARM_UP_SECONDS = 60.0  # after which every process has run all its code
MAX_GROWTH = 0.03
LANES = ("interactive", "interactive", "background", "batch")
WINDOW_CLIENTS = 6
WINDOW_TOKENS = 16
WINDOW_CONTEXT = 1024  # cells; the prompts of all clients take more
TIE = 0.05  # two tokens whose log-probabilities are closer than this may change places


class Soak:
    """Clients that check the answers they stream. One in ten streams is abandoned midway."""

    def __init__(self, stack: RunningStack, answers: dict[str, str]) -> None:
        self.outcomes: Counter[str] = Counter()
        self.wrong_answers: list[tuple[str, str]] = []
        self._stack = stack
        self._answers = answers
        self._keys = [path.read_text().strip() for path in stack.key_files]
        self._window_answers: dict[str, dict[str, Any]] = {}

    async def run(self, seconds: float) -> None:
        ends_at = time.monotonic() + seconds
        limits = httpx.Limits(max_connections=STREAMS + WINDOW_CLIENTS)
        async with httpx.AsyncClient(
            base_url=self._stack.url, timeout=120, limits=limits, trust_env=False
        ) as http:
            for prompt in WINDOW_PROMPTS if not self._window_answers else ():
                self._window_answers[prompt] = await self._complete(http, prompt, self._keys[0])
            async with asyncio.TaskGroup() as group:
                for first in range(STREAMS):
                    group.create_task(self._client(http, first, ends_at))
                for first in range(WINDOW_CLIENTS):
                    group.create_task(self._window_client(http, first, ends_at))

    async def _client(self, http: httpx.AsyncClient, first: int, ends_at: float) -> None:
        questions = itertools.islice(itertools.cycle(self._answers), first, None)
        for number, question in enumerate(questions, start=first):
            if number >= first + MIN_QUESTIONS and time.monotonic() >= ends_at:
                return
            await self._ask(http, question, first, is_abandoned=number % 10 == 9)

    async def _ask(
        self, http: httpx.AsyncClient, question: str, client: int, *, is_abandoned: bool
    ) -> None:
        body = build_greedy_body(question, stream=True) | {"lane": LANES[client % len(LANES)]}
        headers = {"Authorization": f"Bearer {self._keys[client % 2]}"}
        text = ""
        async with http.stream(
            "POST", "/v1/chat/completions", json=body, headers=headers
        ) as answer:
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

    async def _window_client(self, http: httpx.AsyncClient, first: int, ends_at: float) -> None:
        prompts = itertools.islice(itertools.cycle(WINDOW_PROMPTS), first, None)
        for number, prompt in enumerate(prompts):
            if number >= MIN_QUESTIONS and time.monotonic() >= ends_at:
                return
            answer = await self._complete(http, prompt, self._keys[first % 2])
            difference = _find_difference(answer, self._window_answers[prompt])
            if difference is None:
                self.outcomes["correct with a window"] += 1
            else:
                self.wrong_answers.append((prompt, difference))

    async def _complete(self, http: httpx.AsyncClient, prompt: str, key: str) -> dict[str, Any]:
        body = {
            "model": "window",
            "prompt": prompt,
            "max_tokens": WINDOW_TOKENS,
            "ignore_eos": True,
            "temperature": 0,
            "logprobs": 5,
        }
        headers = {"Authorization": f"Bearer {key}"}
        answer = await http.post("/v1/completions", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        choice: dict[str, Any] = answer.json()["choices"][0]
        return choice


WINDOW_PROMPTS = [
    f"{'These rules come before every question of this program. ' * 6}{tail * 12}"
    for tail in ("one and ", "a second ", "third ", "number four ", "and five ", "the sixth ")
]


def _find_difference(choice: dict[str, Any], wanted: dict[str, Any]) -> str | None:
    """The first place where the tokens differ, unless two were equally likely there."""
    mine, theirs = choice["logprobs"], wanted["logprobs"]
    for place, (token, other) in enumerate(zip(mine["tokens"], theirs["tokens"], strict=True)):
        if token != other:
            tops = (mine["top_logprobs"][place], theirs["top_logprobs"][place])
            is_tie = token in tops[1] and theirs["token_logprobs"][place] - tops[1][token] < TIE
            return None if is_tie else f"token {place}: {tops[0]} instead of {tops[1]}"
    return None


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
def test_many_streams_give_the_recorded_answers(
    tmp_path: Path, seconds: float, synthetic_model: Callable[[str], Path]
) -> None:
    stack = RunningStack(tmp_path / "data", SPINDLL_MAX_SEQUENCES=str(STREAMS))
    try:
        assert stack.up().returncode == 0, stack.logs()
        window = synthetic_model("tiny-window")
        assert stack.cli("import", str(window), "--name", "window").returncode == 0
        with stack.http() as http:
            options = {"context_length": WINDOW_CONTEXT, "max_sequences": WINDOW_CLIENTS}
            http.post("/v1/models/window/load", json=options).raise_for_status()
        soak = Soak(stack, load_recorded_answers(r"(fact|count)-\d+"))
        growth = asyncio.run(_measure_growth(soak, stack, seconds))

        assert soak.wrong_answers == []
        assert soak.outcomes["correct"] > STREAMS
        assert soak.outcomes["correct with a window"] > 0
        assert soak.outcomes["abandoned"] > 0
        assert stack.count_starts_of_runners() == 2  # one of each model
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
        models = http.get("/v1/status").json()["engine"]["models"]
    return all(model["running"] == model["queued"] == 0 for model in models)
