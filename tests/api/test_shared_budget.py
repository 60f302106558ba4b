"""How one worker's places are divided among principals."""

from __future__ import annotations

import pytest

from services.api.shared_budget import SharedBudget


def take_all(budget: SharedBudget, principal: str) -> int:
    """How many places a principal gets that asks until it is refused."""
    count = 0
    while budget.take(principal, 1):
        count += 1
    return count


@pytest.mark.parametrize(
    ("share", "counts"), [(1, [60, 30, 15]), (2, [80, 26, 9])], ids=["as much", "twice"]
)
def test_each_may_take_a_share_of_what_it_leaves(share: int, counts: list[int]) -> None:
    budget = SharedBudget(120, share=share)

    assert [take_all(budget, principal) for principal in "abc"] == counts


def test_what_is_given_back_can_be_taken_again() -> None:
    budget = SharedBudget(10)
    assert budget.take("a", 5)
    assert not budget.take("a", 1)
    budget.give_back("a", 5)

    assert budget.take("b", 5)


def test_more_than_the_share_is_refused_whole() -> None:
    budget = SharedBudget(10)

    assert not budget.take("a", 6)
    assert budget.take("a", 5)
