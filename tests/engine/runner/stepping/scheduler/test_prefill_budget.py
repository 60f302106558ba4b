from __future__ import annotations

import pytest

from services.engine.core import RowCosts
from services.engine.runner.stepping.scheduler.prefill_budget import PrefillBudget

CPU = RowCosts(tile_rows=64, single_row_cost=8, prompt_seconds=0.05)


def budget_after(
    *steps: tuple[int, int, float],
    target: float | None = 0.05,
    max_step_tokens: int = 2048,
    row_costs: RowCosts = CPU,
) -> PrefillBudget:
    """The budget after steps of (prompt tokens, generating branches, seconds)."""
    budget = PrefillBudget(
        target_step_seconds=target, max_step_tokens=max_step_tokens, row_costs=row_costs
    )
    for prompt_tokens, decodes, seconds in steps:
        budget.observe(prompt_tokens=prompt_tokens, decodes=decodes, seconds=seconds)
    return budget


def test_beside_generating_branches_a_prompt_gets_the_target_time() -> None:
    budget = budget_after((0, 4, 0.02), (100, 4, 0.12))  # 20 ms without, 1 ms a prompt token

    assert budget.max_prompt_tokens(decodes=4) == 50


def test_on_a_slow_machine_prompt_work_may_double_a_step() -> None:
    budget = budget_after((0, 4, 0.4), (100, 4, 1.4))  # 10 ms a prompt token

    assert budget.max_prompt_tokens(decodes=4) == 40


def test_without_a_target_a_slow_machine_computes_whole_tiles() -> None:
    fast = budget_after((0, 4, 0.02), (100, 4, 0.03), target=None)  # 0.1 ms a prompt token
    slow = budget_after((0, 4, 0.04), (100, 4, 0.84), target=None)  # 8 ms

    assert fast.max_prompt_tokens(decodes=4) == 7 * 64 - 4  # 500 would be 50 ms
    assert slow.max_prompt_tokens(decodes=4) == 64 - 4
    assert slow.max_prompt_tokens(decodes=60) == 128 - 60  # four tokens would not pay
    assert slow.max_prompt_tokens(decodes=64) == 64


def test_a_target_is_kept_and_lowered_to_whole_tiles() -> None:
    budget = budget_after((0, 4, 0.02), (100, 4, 0.12), target=0.1)  # 1 ms a prompt token

    assert budget.max_prompt_tokens(decodes=4) == 64 - 4
    assert budget.max_prompt_tokens(decodes=40) == 128 - 40
    assert budget_after((100, 4, 0.12), target=0.03).max_prompt_tokens(decodes=4) == 25


def test_more_waiting_prompts_than_answers_get_more_tokens() -> None:
    budget = budget_after((0, 1, 0.02), (100, 1, 0.12))  # 20 ms without, 1 ms a prompt token

    assert budget.max_prompt_tokens(decodes=1, prompts=4) == 3 * 64 - 1  # 4 times 50 ms
    assert budget.max_prompt_tokens(decodes=1, prompts=100) == 7 * 64 - 1  # 0.5 s
    assert budget.max_prompt_tokens(decodes=4, prompts=2) == 50


def test_without_answers_the_budget_is_a_whole_batch_or_half_a_second() -> None:
    slow, fast = budget_after((100, 0, 1.0)), budget_after((100, 0, 0.01))

    assert slow.max_prompt_tokens(decodes=0) == 512
    assert fast.max_prompt_tokens(decodes=0) == 2048


def test_the_budget_is_small_before_anything_was_measured() -> None:
    budget = budget_after()

    assert budget.max_prompt_tokens(decodes=3) == 16
    assert budget.max_prompt_tokens(decodes=0) == 512


def test_a_prompt_always_advances() -> None:
    assert budget_after((100, 1, 100.0)).max_prompt_tokens(decodes=1) == 4


def test_on_a_gpu_prompt_work_follows_the_length_of_a_step_and_knows_no_tiles() -> None:
    """8 ms a step: 50 ms beside it would be felt as a gap. 25 ms a step: twice that is fair."""
    fast = budget_after((0, 8, 0.008), (100, 8, 0.018), target=None, row_costs=RowCosts())
    slow = budget_after((0, 8, 0.02501), (100, 8, 0.03501), target=None, row_costs=RowCosts())

    assert fast.max_prompt_tokens(decodes=8) == 160  # 16 ms, 0.1 ms a token
    assert slow.max_prompt_tokens(decodes=8) == 250


def test_a_larger_model_keeps_idle_sequences_for_more_rows() -> None:
    """A token of a 7B model costs 14 times as much to compute, a cell only 3 times as much."""
    small = RowCosts(idle_cell_seconds=0.35e-6)
    large = RowCosts(idle_cell_seconds=1.0e-6)

    assert budget_after(row_costs=small).break_even_rows is None
    assert budget_after((100, 0, 0.85)).break_even_rows is None  # idle cells cost nothing
    rows = [
        budget_after((100, 0, seconds), row_costs=costs).break_even_rows
        for seconds, costs in ((0.85, small), (11.9, large))
    ]
    assert rows == [pytest.approx(24_286, rel=1e-3), pytest.approx(119_000, rel=1e-3)]
