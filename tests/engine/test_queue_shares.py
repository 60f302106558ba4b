from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.engine.queue_shares import has_place


@pytest.mark.parametrize(
    ("principal", "count", "waiting", "expected"),
    [
        ("alice", 1, {"alice": 7}, True),
        ("alice", 1, {"alice": 8}, False),
        ("bob", 1, {"alice": 8}, True),
        ("bob", 4, {"alice": 8}, True),
        ("bob", 5, {"alice": 8}, False),
        ("bob", 1, {"alice": 8, "bob": 3}, True),
        ("bob", 1, {"alice": 8, "bob": 4}, False),
        ("carol", 1, {"alice": 8, "bob": 4}, True),
        ("carol", 1, {"alice": 8, "bob": 4, "carol": 2}, False),
        ("alice", 1, {"alice": 4, "bob": 4}, False),
    ],
)
def test_who_floods_takes_no_place_of_others(
    principal: str, count: int, waiting: dict[str, int], expected: bool
) -> None:
    whose = [name for name, number in waiting.items() for _ in range(number)]

    assert has_place(principal, count, whose, limit=8) is expected


@given(st.lists(st.integers(0, 5), max_size=200), st.integers(1, 20))
def test_what_waits_is_bounded(arrivals: list[int], limit: int) -> None:
    waiting: list[str] = []
    for number in arrivals:
        if has_place(str(number), 1, waiting, limit=limit):
            waiting.append(str(number))

    assert len(waiting) <= limit * sum(1 / p for p in range(1, 7))
