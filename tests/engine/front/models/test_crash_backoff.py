from __future__ import annotations

import pytest

from services.engine.front.models.crash_backoff import CrashBackoff, compute_backoff_seconds
from services.shared.errors import EngineUnavailable, ModelLoadFailed


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_backoff_doubles_up_to_a_minute() -> None:
    expected = [0, 0, 1, 2, 4, 8, 16, 32, 60, 60]

    assert [compute_backoff_seconds(n) for n in range(10)] == expected
    assert compute_backoff_seconds(10_000) == 60


def test_the_first_crash_has_no_backoff_and_the_second_one_has() -> None:
    clock = Clock()
    backoff = CrashBackoff(clock)
    backoff.record_crash("k", "m", "the process died", lived_seconds=1)
    backoff.raise_if_backing_off("k")
    backoff.record_crash("k", "m", "the process died", lived_seconds=1)

    with pytest.raises(EngineUnavailable) as caught:
        backoff.raise_if_backing_off("k")
    assert caught.value.retry_after_seconds == 1
    assert backoff.list_backing_off() == ["m"]

    clock.now += 1
    backoff.raise_if_backing_off("k")
    assert backoff.list_backing_off() == []


def test_a_runner_that_lived_long_starts_the_count_again() -> None:
    backoff = CrashBackoff(Clock())
    for lived in (1, 1, 1, 61):
        backoff.record_crash("k", "m", "the process died", lived_seconds=lived)

    backoff.raise_if_backing_off("k")


def test_the_error_of_a_failed_load_is_raised_again_during_the_backoff() -> None:
    backoff = CrashBackoff(Clock())
    for _ in range(2):
        error = ModelLoadFailed("the file is cut short")
        backoff.record_crash("k", "m", "could not be loaded", lived_seconds=0, error=error)

    with pytest.raises(ModelLoadFailed, match="the file is cut short"):
        backoff.raise_if_backing_off("k")


def test_problems_are_listed_for_ten_minutes() -> None:
    clock = Clock()
    backoff = CrashBackoff(clock)
    for _ in range(4):
        backoff.record_crash("k", "m", "the process was ended by SIGKILL", lived_seconds=1)

    assert backoff.list_problems() == [
        "m: the process was ended by SIGKILL (4 times in a row); next try in 4 s"
    ]
    clock.now += 601
    assert backoff.list_problems() == []


def test_after_clear_the_model_may_start_at_once() -> None:
    backoff = CrashBackoff(Clock())
    for _ in range(5):
        backoff.record_crash("k", "m", "the process died", lived_seconds=1)
    backoff.clear("k")

    backoff.raise_if_backing_off("k")
