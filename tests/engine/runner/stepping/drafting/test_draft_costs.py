"""Drafting pays by the clock: with the step times of a CPU and of a GPU, over texts of many kinds."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from services.engine.runner.stepping.drafting.draft_costs import DraftCosts
from services.engine.runner.stepping.drafting.prompt_lookup import PromptLookup

MAX_ROWS = 32
TOKENS = 1500


def cpu_seconds(rows: int) -> float:
    """Two cores, Qwen2.5-0.5B: 28 ms for a row, 73 ms for four, then about 10 ms each."""
    return 0.028 + 0.015 * min(rows - 1, 3) + 0.010 * max(rows - 4, 0)


def gpu_seconds(rows: int) -> float:
    return 0.008 + 0.00015 * (rows - 1)


def random_text(rng: random.Random) -> tuple[list[int], list[int]]:
    return [rng.randrange(3000) for _ in range(400)], [rng.randrange(3000) for _ in range(TOKENS)]


def chat(rng: random.Random) -> tuple[list[int], list[int]]:
    """Few words, some much more frequent than others: three in a row recur, and go on otherwise."""
    weights = [1 / (rank + 1) for rank in range(400)]
    words = rng.choices(range(400), weights, k=400 + TOKENS)
    return words[:400], words[400:]


def code_edit(rng: random.Random) -> tuple[list[int], list[int]]:
    """The answer is the prompt with one token in sixty changed."""
    prompt = [rng.randrange(3000) for _ in range(TOKENS)]
    answer = list(prompt)
    for place in range(0, TOKENS, 60):
        answer[place] = rng.randrange(3000)
    return prompt, answer


Text = Callable[[random.Random], tuple[list[int], list[int]]]
Clock = Callable[[int], float]


def measure(text: Text, clock: Clock, seed: int) -> tuple[float, float]:
    """The time without drafts over the time with them; the p95 step in steps without drafts."""
    rng = random.Random(seed)
    tokens, answer = text(rng)
    lookup, costs = PromptLookup(), DraftCosts()
    steps: list[float] = []
    place = 0
    while place < len(answer):
        limit = min(MAX_ROWS, costs.max_rows(1), len(answer) - place - 1)
        draft = lookup.propose(tokens, limit, min_acceptance=costs.min_acceptance(1))
        accepted = 0
        while accepted < len(draft) and draft[accepted] == answer[place + accepted]:
            accepted += 1
        seconds = clock(1 + len(draft)) * rng.uniform(0.95, 1.05)
        steps.append(seconds)
        costs.observe(branches=1, drafted=len(draft), seconds=seconds)
        lookup.observe(len(draft), accepted)
        tokens += answer[place : place + accepted + 1]
        place += accepted + 1
    steps.sort()
    return len(answer) * clock(1) / sum(steps), steps[int(0.95 * len(steps))] / clock(1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("clock", [cpu_seconds, gpu_seconds])
@pytest.mark.parametrize("text", [random_text, chat])
def test_drafting_that_does_not_help_costs_less_than_two_percent(
    text: Text, clock: Clock, seed: int
) -> None:
    speed, p95_step = measure(text, clock, seed)

    assert speed > 0.98
    assert p95_step < 1.2


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("clock", "least"), [(cpu_seconds, 1.7), (gpu_seconds, 8.0)])
def test_an_answer_that_quotes_its_prompt_is_faster_and_flows(
    clock: Clock, least: float, seed: int
) -> None:
    speed, p95_step = measure(code_edit, clock, seed)

    assert speed > least
    assert p95_step < 6.0


def test_before_anything_is_measured_a_row_counts_as_half_a_step() -> None:
    costs = DraftCosts()

    assert costs.min_acceptance(1) == pytest.approx(0.55)
    assert costs.max_rows(1) == 8


def test_the_cost_of_a_row_is_measured_for_each_number_of_branches() -> None:
    costs = DraftCosts()
    costs.observe(branches=1, drafted=0, seconds=0.010)
    costs.observe(branches=1, drafted=4, seconds=0.018)

    assert costs.min_acceptance(1) == pytest.approx(1.1 * 0.2)
    assert costs.max_rows(1) == 20
    assert costs.min_acceptance(2) == pytest.approx(0.55)


def test_a_faster_step_with_drafts_costs_nothing_and_not_less() -> None:
    costs = DraftCosts()
    costs.observe(branches=1, drafted=0, seconds=0.010)
    costs.observe(branches=1, drafted=4, seconds=0.009)

    assert costs.min_acceptance(1) == 0.0
    assert costs.max_rows(1) >= MAX_ROWS


def test_one_stall_does_not_make_drafting_look_expensive_for_long() -> None:
    costs = DraftCosts()
    costs.observe(branches=1, drafted=0, seconds=0.010)
    costs.observe(branches=1, drafted=2, seconds=3.0)
    for _ in range(12):
        costs.observe(branches=1, drafted=2, seconds=0.011)

    assert costs.min_acceptance(1) < 0.25
