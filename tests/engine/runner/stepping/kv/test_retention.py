"""How long idle sequences are kept, by what is known about their principals."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.engine.backends.fake_behaviour import Behaviour
from services.engine.core import MemoryPolicy
from services.engine.runner.stepping.kv.retention import ReuseClass, ReuseStatistics
from services.engine.runner.stepping.kv.sequence_pool import SequencePool
from services.engine.runner.stepping.scheduler.request import Request
from tests.engine.runner.stepping.simulation import Simulation, expected, request

BATCH: ReuseClass = ("alice", False)
CHAT: ReuseClass = ("alice", True)


def request_once(id_: int, **changes: Any) -> Request:
    return request(id_, f"{id_:03} is a prompt that is sent once", 8, **changes)


def test_the_probability_is_one_half_before_anything_is_recorded() -> None:
    assert ReuseStatistics().estimate_probability(("anyone", False)) == 0.5


def test_the_probability_falls_while_sequences_are_not_used_again() -> None:
    reuse = ReuseStatistics()
    probabilities = []
    for _ in range(200):
        reuse.record_idle(BATCH)
        probabilities.append(reuse.estimate_probability(BATCH))

    assert probabilities == sorted(probabilities, reverse=True)
    assert probabilities[-1] < 0.02
    assert reuse.estimate_probability(("someone else", False)) == 0.5
    assert reuse.estimate_probability(CHAT) == 0.5


def test_the_probability_rises_with_reuse_and_old_records_fade() -> None:
    reuse = ReuseStatistics()
    for _ in range(200):
        reuse.record_idle(CHAT)
    for _ in range(200):
        reuse.record_idle(CHAT)
        reuse.record_reuse(CHAT, 0.9)

    assert reuse.estimate_probability(CHAT) > 0.8


@given(
    st.lists(st.tuples(st.sampled_from([BATCH, CHAT]), st.none() | st.floats(0, 1)), max_size=300)
)
def test_the_estimate_is_a_probability(history: list[tuple[ReuseClass, float | None]]) -> None:
    reuse = ReuseStatistics()
    for reuse_class, share in history:
        if share is None:
            reuse.record_idle(reuse_class)
        else:
            reuse.record_reuse(reuse_class, share)

    assert 0 < reuse.estimate_probability(BATCH) <= 1


def test_the_oldest_of_many_principals_are_forgotten() -> None:
    reuse = ReuseStatistics()
    for number in range(5000):
        reuse.record_idle((str(number), False))

    assert reuse.estimate_probability(("0", False)) == 0.5  # forgotten
    assert reuse.estimate_probability(("4999", False)) < 0.5


def test_prompts_that_are_sent_once_free_their_cells() -> None:
    used = {}
    for break_even_rows in (None, 2000):
        many = Behaviour(cached_sequences=64)
        simulation = Simulation(
            cells=4096, max_sequences=1, break_even_rows=break_even_rows, behaviour=many
        )
        for id_ in range(60):
            simulation.add(request_once(id_))
            simulation.run()
        used[break_even_rows] = simulation.sequence_pool.cells.used

    assert used[None] > 2000
    assert used[2000] < 300


def test_the_step_that_ends_a_request_does_not_cost_its_sequence() -> None:
    """Else a prompt that one step computes would be forgotten before it is stored."""
    simulation = Simulation(
        cells=512, max_step_tokens=512, target_step_seconds=None, break_even_rows=100
    )
    simulation.add(request(1, "a" * 400, 1))
    simulation.run()

    assert simulation.sequence_pool.cached_count == 1


@pytest.mark.parametrize("other", ["alice", "bob"], ids=["with the same key", "with another"])
def test_a_chat_stays_cached_beside_prompts_that_are_sent_once(other: str) -> None:
    simulation = Simulation(cells=8192, max_sequences=2, break_even_rows=1000)
    tokens = list(b"You are a helpful assistant. ")
    id_ = 0
    for _ in range(20):
        id_ += 1
        turn = request(id_, tokens, 8, principal="alice")
        simulation.add(turn)
        simulation.run()
        tokens = [*tokens, *simulation.answers[id_][0], *b" and then? "]
    for _ in range(18):  # about 800 rows
        id_ += 1
        simulation.add(request_once(id_, principal=other))
        simulation.run()
    before = simulation.computed
    last = request(id_ + 1, tokens, 1, principal="alice")
    simulation.add(last)
    simulation.run()

    assert simulation.computed - before == len(" and then? ") + 1
    assert tuple(simulation.answers[last.id][0]) == expected(last)


def test_sharing_a_prefix_counts_as_use() -> None:
    simulation = Simulation(cells=8192, max_sequences=2, break_even_rows=1000)
    system = "These are the rules that every request of this program begins with. " * 2
    for id_ in range(100):  # about 1 500 rows
        simulation.add(request(id_, f"{system}{id_:03}", 8))
        simulation.run()

    # without the rules 100 requests would be 14 000 tokens
    assert simulation.computed < 2000


def test_beginning_with_an_idle_sequence_renews_it() -> None:
    sequence_pool = SequencePool(
        capacity=4096, id_count=8, policy=MemoryPolicy.DENSE, break_even_rows=1000
    )
    tokens = list(range(100))
    idle = sequence_pool.lend(tokens, None, is_shareable=True, principal="alice", realm="")
    sequence_pool.grow(idle, 100)
    sequence_pool.give_back(idle)
    sequence_pool.count_rows(300)  # alice's probability is 1 of 3
    beginning = sequence_pool.find([*tokens[:40], 500], realm="")
    other = sequence_pool.lend(
        [*tokens[:40], 500], beginning, is_shareable=False, principal="bob", realm=""
    )
    sequence_pool.drop(other)

    sequence_pool.count_rows(400)  # now 1.4 of 3
    assert sequence_pool.cached_count == 1
    sequence_pool.count_rows(200)
    assert sequence_pool.cached_count == 0
    assert sequence_pool.cells.used == 0
