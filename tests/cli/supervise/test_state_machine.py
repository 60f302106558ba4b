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
        for action in machine.next_actions(now):
            assert isinstance(action, StartService)
            machine.record_ready(action.name, now)
    assert machine.is_ready
    return machine


def phases(machine: StackStateMachine) -> dict[str, Phase]:
    return {snapshot.name: snapshot.phase for snapshot in machine.snapshot()}


def all_actions(machine: StackStateMachine, now: float) -> list[Action]:
    return [*machine.next_actions(now), *machine.next_actions(now)]


def test_a_service_without_needs_starts_first() -> None:
    machine = make_machine()

    assert all_actions(machine, 0.0) == [StartService("redis")]


def test_services_that_need_redis_start_together_when_it_is_ready() -> None:
    machine = make_machine()
    machine.next_actions(0.0)
    machine.record_ready("redis", 0.1)

    assert all_actions(machine, 0.1) == [StartService("engine"), StartService("api")]


def test_a_service_that_ends_is_restarted_after_a_back_off() -> None:
    machine = make_ready(make_machine())
    machine.record_end("engine", -9, 1.0)

    assert machine.next_actions(1.0) == []
    assert machine.next_deadline() == 1.0 + MIN_BACKOFF_SECONDS
    assert machine.next_actions(1.0 + MIN_BACKOFF_SECONDS) == [StartService("engine")]
    assert machine.failure is None


def test_when_redis_ends_only_redis_is_restarted() -> None:
    machine = make_ready(make_machine())
    machine.record_end("redis", -9, 1.0)

    assert machine.next_actions(2.0) == [StartService("redis")]
    assert phases(machine)["api"] is Phase.READY


def test_the_back_off_doubles_with_each_crash_up_to_a_limit() -> None:
    machine = make_ready(make_machine())
    now, rests = 1.0, []
    for _ in range(12):
        machine.record_end("api", 1, now)
        deadline = machine.next_deadline()
        assert deadline is not None
        rests.append(deadline - now)
        now = deadline
        assert machine.next_actions(now) == [StartService("api")]

    assert rests[:3] == [MIN_BACKOFF_SECONDS, 2 * MIN_BACKOFF_SECONDS, 4 * MIN_BACKOFF_SECONDS]
    assert rests[-1] == MAX_BACKOFF_SECONDS


def test_the_back_off_is_reset_after_a_stable_time() -> None:
    machine = make_ready(make_machine())
    for now in (1.0, 2.0, 4.0):
        machine.record_end("api", 1, now)
        machine.next_actions(now + 100)
        machine.record_ready("api", now + 100)
    machine.record_end("api", 1, 104.0 + STABLE_SECONDS)

    assert machine.next_deadline() == 104.0 + STABLE_SECONDS + MIN_BACKOFF_SECONDS


def test_repeated_crashes_before_the_stack_was_ready_fail_the_start() -> None:
    machine = make_machine()
    for attempt in range(MAX_FIRST_ATTEMPTS):
        assert machine.failure is None
        machine.next_actions(attempt * 100.0)
        machine.record_end("redis", 1, attempt * 100.0)

    assert machine.failure == StartFailure("redis", "ended", 1)


def test_wrong_settings_fail_the_start_at_once() -> None:
    machine = make_machine()
    machine.next_actions(0.0)
    machine.record_end("redis", 2, 0.1)

    assert machine.failure == StartFailure("redis", "settings", 2)


def test_a_service_that_is_not_ready_in_time_is_killed_and_fails_the_start() -> None:
    machine = make_machine()
    machine.next_actions(0.0)
    machine.record_ready("redis", 0.0)
    machine.next_actions(0.0)

    assert machine.next_actions(60.0) == [KillService("engine"), KillService("api")]
    assert machine.failure == StartFailure("engine", "timeout")


def test_a_stop_ends_the_services_one_by_one_in_reverse_order() -> None:
    machine = make_ready(make_machine())
    machine.stop(1.0)
    record_end = []
    while not machine.is_stopped:
        (action,) = machine.next_actions(1.0)
        assert isinstance(action, TerminateService)
        assert machine.next_actions(1.0) == []
        record_end.append(action.name)
        machine.record_end(action.name, 0, 1.0)

    assert record_end == ["api", "engine", "redis"]


def test_a_service_that_does_not_drain_in_time_is_killed_once() -> None:
    machine = make_ready(make_machine())
    machine.stop(1.0)
    machine.next_actions(1.0)

    assert machine.next_actions(5.9) == []
    assert machine.next_actions(6.0) == [KillService("api")]
    assert machine.next_actions(7.0) == []
    machine.record_end("api", -9, 7.0)
    assert machine.next_actions(7.0) == [TerminateService("engine")]


def test_a_quick_stop_does_not_wait_for_the_drain() -> None:
    machine = make_ready(make_machine())
    machine.stop(1.0)
    machine.next_actions(1.0)
    machine.stop_quickly(1.1)

    assert machine.next_actions(1.1) == [KillService("api")]
    machine.record_end("api", -9, 1.2)
    assert machine.next_actions(1.2) == [TerminateService("engine")]
    assert machine.next_actions(1.2 + HURRIED_DRAIN_SECONDS) == [KillService("engine")]


def test_a_stop_during_the_start_starts_no_further_service() -> None:
    machine = make_machine()
    machine.next_actions(0.0)
    machine.stop(0.1)

    assert machine.next_actions(0.1) == [TerminateService("redis")]
    machine.record_end("redis", -15, 0.2)
    assert machine.is_stopped


def test_a_stop_during_a_back_off_prevents_the_restart() -> None:
    machine = make_ready(make_machine())
    machine.record_end("engine", -9, 1.0)
    machine.stop(1.0)
    for name in ("api", "redis"):
        assert machine.next_actions(9.0) == [TerminateService(name)]
        machine.record_end(name, 0, 9.0)

    assert machine.is_stopped


@pytest.mark.parametrize("name", ["engine", "redis"])
def test_readiness_reported_after_the_end_is_ignored(name: str) -> None:
    machine = make_ready(make_machine())
    machine.record_end(name, -9, 1.0)
    machine.record_ready(name, 1.0)

    assert phases(machine)[name] is Phase.RESTARTING
