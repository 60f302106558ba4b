from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from services.engine.core import Lane
from services.engine.runner.stepping.scheduler.prefill_shares import SLICE_TOKENS, PrefillShares
from services.engine.runner.stepping.scheduler.request import Branch, Request

_serials = iter(range(1, 1_000_000))


def prompt(tokens: int, principal: str = "alice", lane: Lane = Lane.INTERACTIVE) -> Branch:
    serial = next(_serials)
    request = Request(serial, [1] * tokens, max_length=99_999, principal=principal, lane=lane)
    request.serial = serial
    return Branch(request, 0, [1] * tokens)


class Work:
    """Prompts, their tokens left, and the tokens dealt to each."""

    def __init__(self, *prompts: Branch) -> None:
        self.prefill_shares = PrefillShares()
        self.left = {branch: branch.pending for branch in prompts}
        self.total: Counter[Branch] = Counter()
        self.ended: list[Branch] = []

    def deal(self, budget: int) -> dict[Branch, int]:
        dealt = self.prefill_shares.deal(self.left, budget)
        for branch, count in dealt:
            assert 0 < count <= self.left[branch]
            self.total[branch] += count
            self.left[branch] -= count
            branch.tokens = branch.tokens[count:]  # nothing is in memory: pending shrinks with it
            if not self.left[branch]:
                del self.left[branch]
                self.ended.append(branch)
        return dict(dealt)


def test_a_step_is_dealt_in_whole_slices() -> None:
    work = Work(*(prompt(SLICE_TOKENS) for _ in range(8)))

    dealt = work.deal(3 * SLICE_TOKENS)

    assert sorted(dealt.values()) == [SLICE_TOKENS] * 3


def test_principals_get_equal_shares_however_many_prompts_they_have() -> None:
    alices, bobs = [prompt(1000) for _ in range(9)], prompt(5000, "bob")
    work = Work(*alices, bobs)

    for _ in range(20):
        work.deal(100)

    assert abs(work.total[bobs] - 1000) <= SLICE_TOKENS


def test_lanes_share_by_their_weights() -> None:
    lanes = {lane: prompt(50_000, lane=lane) for lane in Lane}
    work = Work(*lanes.values())

    for _ in range(210):
        work.deal(100)

    shares = [work.total[lanes[lane]] / 1000 for lane in Lane]
    assert [round(share) for share in shares] == [16, 4, 1]


def test_a_short_prompt_passes_a_long_one() -> None:
    long = prompt(5000)
    work = Work(long)
    work.deal(100)
    short = prompt(60)
    work.left[short] = 60

    for _ in range(2):
        work.deal(64)

    assert work.ended == [short]


def test_a_long_prompt_advances_beside_an_endless_row_of_short_ones() -> None:
    long = prompt(1000)
    work = Work(long)

    for _ in range(100):
        for _ in range(2):
            short = prompt(60)
            work.left[short] = short.pending
        work.deal(64)

    assert long in work.ended


def test_a_new_flow_starts_level_with_the_others() -> None:
    old = prompt(9000)
    work = Work(old)
    for _ in range(10):
        work.deal(100)
    new = prompt(9000, "bob")
    work.left[new] = 9000

    for _ in range(10):
        work.deal(128)

    assert abs(work.total[new] - 640) <= SLICE_TOKENS


def test_leaving_and_returning_gains_nothing() -> None:
    steady = prompt(50_000)
    work = Work(steady)
    came_and_went = 0
    for _ in range(100):
        guest = prompt(SLICE_TOKENS, "bob")
        work.left[guest] = SLICE_TOKENS
        while guest in work.left:
            work.deal(SLICE_TOKENS)
        came_and_went += SLICE_TOKENS

    assert work.total[steady] >= came_and_went - 2 * SLICE_TOKENS


@given(
    sizes=st.lists(st.tuples(st.integers(1, 300), st.sampled_from("ab"), st.sampled_from(Lane))),
    budget=st.integers(1, 512),
)
def test_the_budget_is_used_up_and_every_prompt_ends(
    sizes: list[tuple[int, str, Lane]], budget: int
) -> None:
    work = Work(*(prompt(*size) for size in sizes))
    wanted = sum(size for size, _, _ in sizes)

    while work.left:
        before = sum(work.left.values())
        assert sum(work.deal(budget).values()) == min(budget, before)

    assert work.total.total() == wanted
