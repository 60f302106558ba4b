from __future__ import annotations

import pytest

from services.engine.front.models.residency import (
    Residency,
    TurnRules,
    is_in_turn,
    is_settling,
    turn_seconds,
)

RULES = TurnRules(least_turn=5, most_turn=120, turn_loads=4, most_settle=2, settle_loads=0.25)


@pytest.mark.parametrize(("load", "turn"), [(0.1, 5), (10, 40), (100, 120)])
def test_a_turn_is_longer_the_longer_the_load_took(load: float, turn: float) -> None:
    assert turn_seconds(Residency(0, load, 0), RULES) == turn


def test_a_turn_ends() -> None:
    residency = Residency(loaded_at=100, load_seconds=2, last_used=100)

    assert is_in_turn(residency, RULES, 107.9)
    assert not is_in_turn(residency, RULES, 108.1)


@pytest.mark.parametrize(
    ("last_used", "now", "settles"),
    [(103, 103.4, True), (103, 103.6, False), (108, 108.1, False)],
    ids=["just used", "idle for long enough", "its turn is over"],
)
def test_inside_its_turn_a_model_settles_before_it_leaves(
    last_used: float, now: float, settles: bool
) -> None:
    residency = Residency(loaded_at=100, load_seconds=2, last_used=last_used)

    assert is_settling(residency, RULES, now) is settles
