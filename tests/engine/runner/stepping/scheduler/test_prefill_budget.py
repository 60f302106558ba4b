from __future__ import annotations

from services.engine.runner.stepping.scheduler.prefill_budget import PrefillBudget


def pace_after(
    *steps: tuple[int, int, float], target: float | None = 0.05, most: int = 2048
) -> PrefillBudget:
    """After steps of (prompt tokens, generating branches, seconds)."""
    pace = PrefillBudget(target_step_seconds=target, max_step_tokens=most)
    for prompt_tokens, decodes, seconds in steps:
        pace.observe(prompt_tokens=prompt_tokens, decodes=decodes, seconds=seconds)
    return pace


def test_beside_generating_branches_a_prompt_gets_the_target_time() -> None:
    pace = pace_after((0, 4, 0.02), (100, 4, 0.12))  # 20 ms without, 1 ms a prompt token

    assert pace.max_prompt_tokens(decodes=4) == 50


def test_on_a_slow_machine_a_step_may_double_instead() -> None:
    pace = pace_after((0, 4, 0.4), (100, 4, 1.4))  # 10 ms a prompt token

    assert pace.max_prompt_tokens(decodes=4) == 40


def test_without_a_target_a_slow_machine_computes_whole_tiles() -> None:
    fast = pace_after((0, 4, 0.02), (100, 4, 0.03), target=None)  # 0.1 ms a prompt token
    slow = pace_after((0, 4, 0.04), (100, 4, 0.84), target=None)  # 8 ms

    assert fast.max_prompt_tokens(decodes=4) == 7 * 64 - 4  # 500 would be 50 ms
    assert slow.max_prompt_tokens(decodes=4) == 64 - 4
    assert slow.max_prompt_tokens(decodes=60) == 128 - 60  # four tokens would not pay
    assert slow.max_prompt_tokens(decodes=64) == 64


def test_a_target_is_kept_and_tiles_are_filled_below_it() -> None:
    pace = pace_after((0, 4, 0.02), (100, 4, 0.12), target=0.1)  # 1 ms a prompt token

    assert pace.max_prompt_tokens(decodes=4) == 64 - 4
    assert pace.max_prompt_tokens(decodes=40) == 128 - 40
    assert pace_after((100, 4, 0.12), target=0.03).max_prompt_tokens(decodes=4) == 25


def test_many_waiting_prompts_weigh_more_than_few_answers() -> None:
    pace = pace_after((0, 1, 0.02), (100, 1, 0.12))  # 20 ms without, 1 ms a prompt token

    assert pace.max_prompt_tokens(decodes=1, prompts=4) == 3 * 64 - 1  # 4 times 50 ms
    assert pace.max_prompt_tokens(decodes=1, prompts=100) == 7 * 64 - 1  # 0.5 s
    assert pace.max_prompt_tokens(decodes=4, prompts=2) == 50


def test_alone_a_prompt_takes_what_computes_best() -> None:
    slow, fast = pace_after((100, 0, 1.0)), pace_after((100, 0, 0.01))

    assert slow.max_prompt_tokens(decodes=0) == 512
    assert fast.max_prompt_tokens(decodes=0) == 2048


def test_before_anything_was_measured_it_is_careful() -> None:
    pace = pace_after()

    assert pace.max_prompt_tokens(decodes=3) == 16
    assert pace.max_prompt_tokens(decodes=0) == 512


def test_a_prompt_always_gets_on() -> None:
    assert pace_after((100, 1, 100.0)).max_prompt_tokens(decodes=1) == 4
