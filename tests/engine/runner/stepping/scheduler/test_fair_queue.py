from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from services.engine.core import Lane
from services.engine.runner.stepping.scheduler.fair_queue import FairQueue
from services.engine.runner.stepping.scheduler.request import Branch, Request


def branch(id_: int, tokens: int = 10, **changes: Any) -> Branch:
    prompt = [1] * tokens
    return Branch(Request(id_, prompt, max_length=tokens + 10, **changes), 0, prompt)


def serve(queue: FairQueue, count: int | None = None, now: float = 0.0) -> list[int]:
    ids: list[int] = []
    while (count is None or len(ids) < count) and (next_ := queue.peek(now)) is not None:
        assert queue.peek(now) is next_, "peek changed the next branch"
        queue.take(next_)
        ids.append(next_.request.id)
    return ids


def test_one_principal_is_served_in_order() -> None:
    queue = FairQueue()
    for id_ in range(5):
        queue.add(branch(id_))

    assert serve(queue) == [0, 1, 2, 3, 4]


def test_principals_get_equal_tokens_not_equal_requests() -> None:
    queue = FairQueue()
    for id_ in range(200):
        queue.add(branch(id_, tokens=1000, principal="long"))
        queue.add(branch(1000 + id_, tokens=100, principal="short"))

    tokens = Counter[str]()
    for id_ in serve(queue, count=120):
        tokens["long" if id_ < 1000 else "short"] += (1000 if id_ < 1000 else 100) + 256

    assert tokens["long"] == pytest.approx(tokens["short"], rel=0.1)


def test_a_better_lane_goes_first() -> None:
    queue = FairQueue()
    queue.add(branch(1, lane=Lane.BATCH))
    queue.add(branch(2, lane=Lane.BACKGROUND))
    queue.add(branch(3))

    assert serve(queue) == [3, 2, 1]


def test_a_long_wait_raises_a_branch_above_a_new_one_of_a_better_lane() -> None:
    queue = FairQueue()
    queue.add(branch(1, lane=Lane.BATCH, arrived_at=0.0))
    queue.add(branch(2, arrived_at=60.0))

    assert serve(queue, now=60.0) == [1, 2]


def test_a_long_wait_raises_no_other_branch_of_the_lane() -> None:
    queue = FairQueue()
    queue.add(branch(1, lane=Lane.BATCH, principal="early", arrived_at=0.0))
    queue.add(branch(2, lane=Lane.BATCH, principal="late", arrived_at=60.0))
    queue.add(branch(3, arrived_at=60.0))

    assert serve(queue, now=60.0) == [1, 3, 2]


def test_several_answers_to_one_prompt_are_charged_for_it_once() -> None:
    queue = FairQueue()
    many = Request(1, [1] * 900, max_length=999, principal="many", n=4)
    for index in range(4):
        queue.add(Branch(many, index, many.prompt))
    for id_ in range(2, 6):
        queue.add(branch(id_, tokens=900, principal="one each"))

    assert serve(queue, count=6).count(1) == 4  # 900 + 4 * 256 tokens against 1156 each


def test_a_preempted_branch_goes_first_in_its_queue_and_costs_nothing() -> None:
    queue = FairQueue()
    first, second = branch(1), branch(2)
    queue.add(first)
    queue.add(second)
    assert serve(queue, count=1) == [1]

    queue.put_back(first)

    assert serve(queue) == [1, 2]


def test_removing_branches_keeps_the_order_of_the_rest() -> None:
    queue = FairQueue()
    branches = [branch(id_, principal="ab"[id_ % 2]) for id_ in range(6)]
    for each in branches:
        queue.add(each)

    for each in (branches[2], branches[1], branches[5], branches[3]):
        queue.remove(each)
    queue.remove(branch(77))

    assert len(queue) == 2
    assert serve(queue) == [0, 4]


def test_positions_interleave_principals() -> None:
    queue = FairQueue()
    for id_ in range(3):
        queue.add(branch(id_, principal="flood"))
    queue.add(branch(9, principal="alice"))

    assert queue.take_changed_positions(0.0) == [(0, 1), (9, 2), (1, 3), (2, 4)]
    assert queue.take_changed_positions(0.0) == []


def test_a_new_request_gets_its_position_at_once_and_the_others_once_a_second() -> None:
    queue = FairQueue()
    for id_ in range(3):
        queue.add(branch(id_))
    assert queue.take_changed_positions(10.0) == [(0, 1), (1, 2), (2, 3)]

    assert serve(queue, count=1) == [0]
    queue.add(branch(3))
    assert queue.take_changed_positions(10.5) == [(3, 3)]
    assert queue.take_changed_positions(10.9) == []
    assert queue.take_changed_positions(11.0) == [(1, 1), (2, 2)]


def test_a_preempted_branch_does_not_go_before_an_older_one() -> None:
    queue = FairQueue()
    old, young = branch(1), branch(2)
    old.request.serial, young.request.serial = 1, 2
    queue.add(old)

    queue.put_back(young)

    assert serve(queue) == [1, 2]
