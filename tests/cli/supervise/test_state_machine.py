from __future__ import annotations

import pytest

from services.cli.supervise.state_machine import (
    HURRIED_DRAIN_SECONDS,
    MAX_BACKOFF_SECONDS,
    MAX_FIRST_ATTEMPTS,
    MIN_BACKOFF_SECONDS,
    STABLE_SECONDS,
    Action,
    KillService,
    Phase,
    ServicePolicy,
    StackStateMachine,
    StartFailure,
    StartService,
    TerminateService,
)


def make_machine() -> StackStateMachine:
    return StackStateMachine(
        [
            ServicePolicy("redis", drain_seconds=5),
            ServicePolicy("engine", needs=("redis",), drain_seconds=5, start_seconds=60),
            ServicePolicy("api", needs=("redis",), drain_seconds=5),
        ]
    )


def make_ready(machine: StackStateMachine, now: float = 0.0) -> StackStateMachine:
    for _ in range(2):
        for action in machine.actions(now):
            assert isinstance(action, StartService)
            machine.became_ready(action.name, now)
    assert machine.is_ready
    return machine


def phases(machine: StackStateMachine) -> dict[str, Phase]:
    return {snapshot.name: snapshot.phase for snapshot in machine.snapshot()}


def all_actions(machine: StackStateMachine, now: float) -> list[Action]:
    return [*machine.actions(now), *machine.actions(now)]


def test_only_what_needs_nothing_starts_first() -> None:
    machine = make_machine()

    assert all_actions(machine, 0.0) == [StartService("redis")]


def test_what_needs_redis_starts_together_when_redis_is_ready() -> None:
    machine = make_machine()
    machine.actions(0.0)
    machine.became_ready("redis", 0.1)

    assert all_actions(machine, 0.1) == [StartService("engine"), StartService("api")]


def test_a_service_that_ends_is_started_again_after_a_rest() -> None:
    machine = make_ready(make_machine())
    machine.ended("engine", -9, 1.0)

    assert machine.actions(1.0) == []
    assert machine.next_deadline() == 1.0 + MIN_BACKOFF_SECONDS
    assert machine.actions(1.0 + MIN_BACKOFF_SECONDS) == [StartService("engine")]
    assert machine.failure is None


def test_redis_ending_restarts_redis_alone() -> None:
    machine = make_ready(make_machine())
    machine.ended("redis", -9, 1.0)

    assert machine.actions(2.0) == [StartService("redis")]
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
        assert machine.actions(now) == [StartService("api")]

    assert rests[:3] == [MIN_BACKOFF_SECONDS, 2 * MIN_BACKOFF_SECONDS, 4 * MIN_BACKOFF_SECONDS]
    assert rests[-1] == MAX_BACKOFF_SECONDS


def test_a_long_steady_service_rests_shortly_again() -> None:
    machine = make_ready(make_machine())
    for now in (1.0, 2.0, 4.0):
        machine.ended("api", 1, now)
        machine.actions(now + 100)
        machine.became_ready("api", now + 100)
    machine.ended("api", 1, 104.0 + STABLE_SECONDS)

    assert machine.next_deadline() == 104.0 + STABLE_SECONDS + MIN_BACKOFF_SECONDS


def test_crashing_again_and_again_before_the_stack_was_ready_is_a_failure() -> None:
    machine = make_machine()
    for attempt in range(MAX_FIRST_ATTEMPTS):
        assert machine.failure is None
        machine.actions(attempt * 100.0)
        machine.ended("redis", 1, attempt * 100.0)

    assert machine.failure == StartFailure("redis", "ended", 1)


def test_wrong_settings_are_a_failure_at_once() -> None:
    machine = make_machine()
    machine.actions(0.0)
    machine.ended("redis", 2, 0.1)

    assert machine.failure == StartFailure("redis", "settings", 2)


def test_a_service_that_is_not_ready_in_time_is_killed_and_a_failure() -> None:
    machine = make_machine()
    machine.actions(0.0)
    machine.became_ready("redis", 0.0)
    machine.actions(0.0)

    assert machine.actions(60.0) == [KillService("engine"), KillService("api")]
    assert machine.failure == StartFailure("engine", "late")


def test_a_stop_ends_one_service_after_another_in_reverse_order() -> None:
    machine = make_ready(make_machine())
    machine.stop(1.0)
    ended = []
    while not machine.is_over:
        (action,) = machine.actions(1.0)
        assert isinstance(action, TerminateService)
        assert machine.actions(1.0) == []
        ended.append(action.name)
        machine.ended(action.name, 0, 1.0)

    assert ended == ["api", "engine", "redis"]


def test_a_service_that_does_not_drain_in_time_is_killed_once() -> None:
    machine = make_ready(make_machine())
    machine.stop(1.0)
    machine.actions(1.0)

    assert machine.actions(5.9) == []
    assert machine.actions(6.0) == [KillService("api")]
    assert machine.actions(7.0) == []
    machine.ended("api", -9, 7.0)
    assert machine.actions(7.0) == [TerminateService("engine")]


def test_a_second_stop_does_not_wait_for_the_drain() -> None:
    machine = make_ready(make_machine())
    machine.stop(1.0)
    machine.actions(1.0)
    machine.hurry(1.1)

    assert machine.actions(1.1) == [KillService("api")]
    machine.ended("api", -9, 1.2)
    assert machine.actions(1.2) == [TerminateService("engine")]
    assert machine.actions(1.2 + HURRIED_DRAIN_SECONDS) == [KillService("engine")]


def test_a_stop_during_the_start_leaves_what_never_ran() -> None:
    machine = make_machine()
    machine.actions(0.0)
    machine.stop(0.1)

    assert machine.actions(0.1) == [TerminateService("redis")]
    machine.ended("redis", -15, 0.2)
    assert machine.is_over


def test_a_stop_while_one_rests_does_not_start_it_again() -> None:
    machine = make_ready(make_machine())
    machine.ended("engine", -9, 1.0)
    machine.stop(1.0)
    for name in ("api", "redis"):
        assert machine.actions(9.0) == [TerminateService(name)]
        machine.ended(name, 0, 9.0)

    assert machine.is_over


@pytest.mark.parametrize("late", ["engine", "redis"])
def test_readiness_reported_after_the_end_is_ignored(late: str) -> None:
    machine = make_ready(make_machine())
    machine.ended(late, -9, 1.0)
    machine.became_ready(late, 1.0)

    assert phases(machine)[late] is Phase.RESTARTING
