from __future__ import annotations

import pytest

from services.engine.front.models.residency import (
    Residency,
    ResidencyRules,
    compute_residency_seconds,
    has_residency_left,
    is_in_grace,
)

RULES = ResidencyRules(
    min_residency_seconds=5,
    max_residency_seconds=120,
    residency_load_factor=4,
    max_grace_seconds=2,
    grace_load_factor=0.25,
)


@pytest.mark.parametrize(("load", "seconds"), [(0.1, 5), (10, 40), (100, 120)])
def test_the_minimum_residency_grows_with_the_load_time(load: float, seconds: float) -> None:
    assert compute_residency_seconds(Residency(0, load, 0), RULES) == seconds


def test_the_minimum_residency_ends() -> None:
    residency = Residency(loaded_at=100, load_seconds=2, last_used_at=100)

    assert has_residency_left(residency, RULES, 107.9)
    assert not has_residency_left(residency, RULES, 108.1)


@pytest.mark.parametrize(
    ("last_used_at", "now", "is_kept"),
    [(103, 103.4, True), (103, 103.6, False), (108, 108.1, False)],
    ids=["just used", "idle for the grace time", "its minimum residency is over"],
)
def test_within_its_minimum_residency_an_idle_model_is_kept_for_a_grace_time(
    last_used_at: float, now: float, is_kept: bool
) -> None:
    residency = Residency(loaded_at=100, load_seconds=2, last_used_at=last_used_at)

    assert is_in_grace(residency, RULES, now) is is_kept
