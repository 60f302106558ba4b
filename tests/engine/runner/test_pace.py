from __future__ import annotations

from services.engine.runner.scheduler.chunks import share_out
from services.engine.runner.scheduler.pace import Pace


def pace_after(
    *steps: tuple[int, int, float], target: float | None = 0.05, most: int = 2048
) -> Pace:
    """After steps of (prompt tokens, generating branches, seconds)."""
    pace = Pace(target_seconds=target, most_tokens=most)
    for prompt_tokens, decodes, seconds in steps:
        pace.observe(prompt_tokens=prompt_tokens, decodes=decodes, seconds=seconds)
    return pace


def test_beside_generating_branches_a_prompt_gets_the_target_time() -> None:
    pace = pace_after((0, 4, 0.02), (100, 4, 0.12))  # 20 ms without, 1 ms a prompt token

    assert pace.prompt_tokens(decodes=4) == 50


def test_on_a_slow_machine_a_step_may_double_instead() -> None:
    pace = pace_after((0, 4, 0.4), (100, 4, 1.4))  # 10 ms a prompt token

    assert pace.prompt_tokens(decodes=4) == 40


def test_without_a_target_a_slow_machine_computes_chunks_that_pay() -> None:
    fast = pace_after((0, 4, 0.02), (100, 4, 0.03), target=None)  # 0.1 ms a prompt token
    slow = pace_after((0, 4, 0.04), (100, 4, 0.84), target=None)  # 8 ms
    slowest = pace_after((0, 4, 0.1), (100, 4, 5.1), target=None)  # 50 ms

    assert fast.prompt_tokens(decodes=4) == 500  # 50 ms
    assert slow.prompt_tokens(decodes=4) == 64
    assert slowest.prompt_tokens(decodes=4) == 16  # 0.8 s


def test_many_waiting_prompts_weigh_more_than_few_answers() -> None:
    pace = pace_after((0, 1, 0.02), (100, 1, 0.12))  # 20 ms without, 1 ms a prompt token

    assert pace.prompt_tokens(decodes=1, prompts=4) == 4 * 50
    assert pace.prompt_tokens(decodes=1, prompts=100) == 500
    assert pace.prompt_tokens(decodes=4, prompts=2) == 50


def test_alone_a_prompt_takes_what_computes_best() -> None:
    slow, fast = pace_after((100, 0, 1.0)), pace_after((100, 0, 0.01))

    assert slow.prompt_tokens(decodes=0) == 512
    assert fast.prompt_tokens(decodes=0) == 2048


def test_before_anything_was_measured_it_is_careful() -> None:
    pace = pace_after()

    assert pace.prompt_tokens(decodes=3) == 16
    assert pace.prompt_tokens(decodes=0) == 512


def test_a_prompt_always_gets_on() -> None:
    assert pace_after((100, 1, 100.0)).prompt_tokens(decodes=1) == 4


def test_shares_follow_weights_and_wants() -> None:
    assert share_out(100, [500, 500], [1, 1]) == [50, 50]
    assert share_out(100, [10, 500], [1, 1]) == [10, 90]
    assert share_out(100, [500, 500], [4, 1]) == [80, 20]
    assert share_out(100, [20, 30], [1, 1]) == [20, 30]
    assert share_out(3, [9, 9, 9, 9], [1, 1, 1, 1]) == [1, 1, 1, 0]
    assert share_out(0, [5], [1]) == [0]
