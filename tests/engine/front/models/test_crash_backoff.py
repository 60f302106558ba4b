from __future__ import annotations

import pytest

from services.engine.front.models.crash_backoff import Streaks, pause_seconds
from services.shared.errors import EngineUnavailable, ModelLoadFailed


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_pauses_double_up_to_a_minute() -> None:
    assert [pause_seconds(n) for n in range(10)] == [0, 0, 1, 2, 4, 8, 16, 32, 60, 60]
    assert pause_seconds(10_000) == 60


def test_the_first_death_costs_nothing_and_the_second_a_pause() -> None:
    clock = Clock()
    streaks = Streaks(clock)
    streaks.died("k", "m", "the process died", lived_seconds=1)
    streaks.require_no_pause("k")
    streaks.died("k", "m", "the process died", lived_seconds=1)

    with pytest.raises(EngineUnavailable) as caught:
        streaks.require_no_pause("k")
    assert caught.value.retry_after_seconds == 1
    assert streaks.backing_off() == ["m"]

    clock.now += 1
    streaks.require_no_pause("k")
    assert streaks.backing_off() == []


def test_a_long_life_starts_the_count_anew() -> None:
    streaks = Streaks(Clock())
    for lived in (1, 1, 1, 61):
        streaks.died("k", "m", "the process died", lived_seconds=lived)

    streaks.require_no_pause("k")


def test_a_failed_load_is_told_again_as_it_was() -> None:
    streaks = Streaks(Clock())
    for _ in range(2):
        error = ModelLoadFailed("the file is cut short")
        streaks.died("k", "m", "could not be loaded", lived_seconds=0, error=error)

    with pytest.raises(ModelLoadFailed, match="the file is cut short"):
        streaks.require_no_pause("k")


def test_problems_are_told_for_a_while_and_then_forgotten() -> None:
    clock = Clock()
    streaks = Streaks(clock)
    for _ in range(4):
        streaks.died("k", "m", "the process was ended by SIGKILL", lived_seconds=1)

    assert streaks.problems() == [
        "m: the process was ended by SIGKILL (4 times in a row); next try in 4 s"
    ]
    clock.now += 601
    assert streaks.problems() == []


def test_who_asks_by_name_tries_at_once() -> None:
    streaks = Streaks(Clock())
    for _ in range(5):
        streaks.died("k", "m", "the process died", lived_seconds=1)
    streaks.forgive("k")

    streaks.require_no_pause("k")
