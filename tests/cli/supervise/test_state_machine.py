from __future__ import annotations

import pytest

from services.cli.supervise.state_machine import (
    FIRST_REST_SECONDS,
    HURRIED_SECONDS,
    LONGEST_REST_SECONDS,
    MAX_FIRST_ATTEMPTS,
    STEADY_SECONDS,
    Action,
    Failure,
    Kill,
    Machine,
    Phase,
    Policy,
    Start,
    Terminate,
)


def make_machine() -> Machine:
    return Machine(
        [
            Policy("redis", drain_seconds=5),
            Policy("engine", needs=("redis",), drain_seconds=5, start_seconds=60),
            Policy("api", needs=("redis",), drain_seconds=5),
        ]
    )


def make_ready(machine: Machine, now: float = 0.0) -> Machine:
    for _ in range(2):
        for action in machine.actions(now):
            assert isinstance(action, Start)
            machine.became_ready(action.name, now)
    assert machine.is_ready
    return machine


def phases(machine: Machine) -> dict[str, Phase]:
    return {seen.name: seen.phase for seen in machine.seen()}


def all_actions(machine: Machine, now: float) -> list[Action]:
    return [*machine.actions(now), *machine.actions(now)]


def test_only_what_needs_nothing_starts_first() -> None:
    machine = make_machine()

    assert all_actions(machine, 0.0) == [Start("redis")]


def test_what_needs_redis_starts_together_when_redis_is_ready() -> None:
    machine = make_machine()
    machine.actions(0.0)
    machine.became_ready("redis", 0.1)

    assert all_actions(machine, 0.1) == [Start("engine"), Start("api")]


def test_a_service_that_ends_is_started_again_after_a_rest() -> None:
    machine = make_ready(make_machine())
    machine.ended("engine", -9, 1.0)

    assert machine.actions(1.0) == []
    assert machine.next_deadline() == 1.0 + FIRST_REST_SECONDS
    assert machine.actions(1.0 + FIRST_REST_SECONDS) == [Start("engine")]
    assert machine.failure is None


def test_redis_ending_restarts_redis_alone() -> None:
    machine = make_ready(make_machine())
    machine.ended("redis", -9, 1.0)

    assert machine.actions(2.0) == [Start("redis")]
    assert phases(machine)["api"] is Phase.READY


def test_the_rest_doubles_with_each_crash_and_has_a_bound() -> None:
    machine = make_ready(make_machine())
    now, rests = 1.0, []
    for _ in range(12):
        machine.ended("api", 1, now)
        deadline = machine.next_deadline()
        assert deadline is not None
        rests.append(deadline - now)
        now = deadline
        assert machine.actions(now) == [Start("api")]

    assert rests[:3] == [FIRST_REST_SECONDS, 2 * FIRST_REST_SECONDS, 4 * FIRST_REST_SECONDS]
    assert rests[-1] == LONGEST_REST_SECONDS


def test_a_long_steady_service_rests_shortly_again() -> None:
    machine = make_ready(make_machine())
    for now in (1.0, 2.0, 4.0):
        machine.ended("api", 1, now)
        machine.actions(now + 100)
        machine.became_ready("api", now + 100)
    machine.ended("api", 1, 104.0 + STEADY_SECONDS)

    assert machine.next_deadline() == 104.0 + STEADY_SECONDS + FIRST_REST_SECONDS


def test_crashing_again_and_again_before_the_stack_was_ready_is_a_failure() -> None:
    machine = make_machine()
    for attempt in range(MAX_FIRST_ATTEMPTS):
        assert machine.failure is None
        machine.actions(attempt * 100.0)
        machine.ended("redis", 1, attempt * 100.0)

    assert machine.failure == Failure("redis", "ended", 1)


def test_wrong_settings_are_a_failure_at_once() -> None:
    machine = make_machine()
    machine.actions(0.0)
    machine.ended("redis", 2, 0.1)

    assert machine.failure == Failure("redis", "settings", 2)


def test_a_service_that_is_not_ready_in_time_is_killed_and_a_failure() -> None:
    machine = make_machine()
    machine.actions(0.0)
    machine.became_ready("redis", 0.0)
    machine.actions(0.0)

    assert machine.actions(60.0) == [Kill("engine"), Kill("api")]
    assert machine.failure == Failure("engine", "late")


def test_a_stop_ends_one_service_after_another_in_reverse_order() -> None:
    machine = make_ready(make_machine())
    machine.stop(1.0)
    ended = []
    while not machine.is_over:
        (action,) = machine.actions(1.0)
        assert isinstance(action, Terminate)
        assert machine.actions(1.0) == []
        ended.append(action.name)
        machine.ended(action.name, 0, 1.0)

    assert ended == ["api", "engine", "redis"]


def test_a_service_that_does_not_drain_in_time_is_killed_once() -> None:
    machine = make_ready(make_machine())
    machine.stop(1.0)
    machine.actions(1.0)

    assert machine.actions(5.9) == []
    assert machine.actions(6.0) == [Kill("api")]
    assert machine.actions(7.0) == []
    machine.ended("api", -9, 7.0)
    assert machine.actions(7.0) == [Terminate("engine")]


def test_a_second_stop_does_not_wait_for_the_drain() -> None:
    machine = make_ready(make_machine())
    machine.stop(1.0)
    machine.actions(1.0)
    machine.hurry(1.1)

    assert machine.actions(1.1) == [Kill("api")]
    machine.ended("api", -9, 1.2)
    assert machine.actions(1.2) == [Terminate("engine")]
    assert machine.actions(1.2 + HURRIED_SECONDS) == [Kill("engine")]


def test_a_stop_during_the_start_leaves_what_never_ran() -> None:
    machine = make_machine()
    machine.actions(0.0)
    machine.stop(0.1)

    assert machine.actions(0.1) == [Terminate("redis")]
    machine.ended("redis", -15, 0.2)
    assert machine.is_over


def test_a_stop_while_one_rests_does_not_start_it_again() -> None:
    machine = make_ready(make_machine())
    machine.ended("engine", -9, 1.0)
    machine.stop(1.0)
    for name in ("api", "redis"):
        assert machine.actions(9.0) == [Terminate(name)]
        machine.ended(name, 0, 9.0)

    assert machine.is_over


@pytest.mark.parametrize("late", ["engine", "redis"])
def test_readiness_reported_after_the_end_is_ignored(late: str) -> None:
    machine = make_ready(make_machine())
    machine.ended(late, -9, 1.0)
    machine.became_ready(late, 1.0)

    assert phases(machine)[late] is Phase.RESTING
