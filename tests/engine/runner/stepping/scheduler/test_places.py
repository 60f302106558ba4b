"""Which running branch yields to a waiting one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.engine.core import Lane
from services.engine.runner.stepping.scheduler.places import (
    choose_victim,
    find_worst_ranks,
    outranks,
    outranks_any,
)
from services.engine.runner.stepping.scheduler.request import Branch, Request

NOW = 100.0


def branch(lane: Lane, waited: float = 0.0, principal: str = "", rank: int = 0) -> Branch:
    request = Request(1, [1], max_length=2, lane=lane, principal=principal)
    request.arrived_at = NOW - waited
    made = Branch(request, 0, [1])
    made.rank = rank
    return made


branches = st.builds(
    branch, st.sampled_from(Lane), st.sampled_from([0.0, 5.0, 15.0, 35.0]), rank=st.integers(-4, 2)
)


@given(branches, st.lists(branches, max_size=8))
def test_a_branch_outranks_any_exactly_if_it_outranks_one(
    head: Branch, running: list[Branch]
) -> None:
    expected = any(outranks(head, other, NOW) for other in running)

    assert outranks_any(head, find_worst_ranks(running), NOW) is expected


def test_a_batch_branch_that_waited_for_its_place_keeps_it_for_a_while() -> None:
    batch = branch(Lane.BATCH, rank=0)  # admitted after 20 s of waiting

    assert choose_victim(branch(Lane.INTERACTIVE), [batch], NOW, own_places=0) is None
    assert choose_victim(branch(Lane.INTERACTIVE, waited=10.0), [batch], NOW, own_places=0) is batch


def test_a_principal_with_more_places_yields_until_the_shares_are_even() -> None:
    flood = [branch(Lane.INTERACTIVE, principal="flood") for _ in range(2)]

    assert (
        choose_victim(branch(Lane.INTERACTIVE, principal="alice"), flood, NOW, own_places=0)
        in flood
    )
    assert (
        choose_victim(branch(Lane.INTERACTIVE, principal="alice"), flood[:1], NOW, own_places=0)
        is None
    )
