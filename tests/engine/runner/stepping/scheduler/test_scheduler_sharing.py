"""Which tokens are computed once and shared."""

from __future__ import annotations

from services.engine.backends.fake_behaviour import Behaviour
from services.engine.core import Lane, MemoryPolicy
from tests.engine.runner.stepping.simulation import Simulation, expected, recurrent, request

SYSTEM = "You are a helpful assistant who answers in one short sentence, always. "  # 72 tokens


def test_a_prompt_sent_by_many_at_once_is_computed_once() -> None:
    simulation = Simulation(cells=4096, max_sequences=16, max_step_tokens=2048)
    requests = [request(i, SYSTEM + f"user {i:02}", 1) for i in range(16)]
    for each in requests:
        simulation.add(each)

    simulation.run()

    # "user " and two tens digits are shared too; the last digits are not
    assert simulation.computed == len(SYSTEM) + len("user ") + 2 + 16
    assert all(tuple(simulation.answers[r.id][0]) == expected(r) for r in requests)


def test_many_answers_share_one_prompt() -> None:
    simulation = Simulation(cells=1024, max_sequences=8, max_step_tokens=512)
    asked = request(1, SYSTEM, 1, n=5)
    simulation.add(asked)

    simulation.run()

    # each answer but the first computes the last token of the prompt again, for its logits
    assert simulation.computed == len(SYSTEM) + 4


def test_more_answers_than_places_are_all_generated() -> None:
    simulation = Simulation(cells=1024, max_sequences=2)
    asked = request(1, "hello", 12, n=7)
    simulation.add(asked)

    simulation.run()

    assert set(map(tuple, simulation.answers[1].values())) == {expected(asked)}


def test_the_next_turn_of_a_chat_computes_only_what_is_new() -> None:
    simulation = Simulation(cells=1024)
    first = request(1, SYSTEM, 10)
    simulation.add(first)
    simulation.run()
    before = simulation.computed
    answer = simulation.answers[1][0]

    simulation.add(request(2, [*first.prompt, *answer, *b" and then?"], 1))
    simulation.run()

    # the last token of an answer is sampled, not computed
    assert simulation.computed - before == len(" and then?") + 1


def test_without_an_id_to_spare_a_prompt_takes_that_of_the_only_one_it_could_share() -> None:
    """As with `max_sequences` 256, which are all the ids that llama.cpp has."""
    simulation = Simulation(max_sequences=2, behaviour=Behaviour(cached_sequences=0))
    shared = [request(1, SYSTEM + "first", 1), request(3, SYSTEM + "third", 1)]
    simulation.add(request(2, "another one", 200))
    simulation.add(shared[0])
    while 1 not in simulation.ended:
        simulation.step()
    assert simulation.sequence_pool.cached_count == 1

    simulation.add(shared[1])
    while 3 not in simulation.ended:
        simulation.step()

    assert simulation.cached[3] == 0
    assert [tuple(simulation.answers[r.id][0]) for r in shared] == list(map(expected, shared))


def test_a_private_request_shares_nothing() -> None:
    simulation = Simulation(cells=1024)
    for id_ in (1, 2):
        simulation.add(request(id_, SYSTEM, 1, is_shareable=False))

    simulation.run()

    assert simulation.computed == 2 * len(SYSTEM)
    assert simulation.sequence_pool.cells.used == 0


def test_computed_tokens_are_found_only_in_their_own_realm() -> None:
    simulation = Simulation(cells=1024)
    for id_, realm in ((1, "alice"), (2, "bob"), (3, "alice")):
        simulation.add(request(id_, SYSTEM, 1, realm=realm, principal="team"))
        simulation.run()

    assert simulation.cached == {1: 0, 2: 0, 3: len(SYSTEM) - 1}


def test_a_prompt_of_another_realm_is_not_followed() -> None:
    simulation = Simulation(cells=1024)
    for id_, realm in ((1, "alice"), (2, "bob")):
        simulation.add(request(id_, SYSTEM, 1, realm=realm))

    simulation.run()

    assert simulation.computed == 2 * len(SYSTEM)
    assert simulation.cached == {1: 0, 2: 0}


def test_only_tokens_that_were_really_saved_count_as_cached() -> None:
    simulation = Simulation(cells=8192, max_step_tokens=256, target_step_seconds=None)
    simulation.add(request(1, SYSTEM * 40 + "one", 5))
    simulation.step()
    follower = request(2, SYSTEM * 40 + "two", 5)
    simulation.add(follower)
    simulation.step()
    before = simulation.computed
    simulation.cancel(1)

    simulation.run()

    assert simulation.cached[2] == before
    assert simulation.computed - before == len(follower.prompt) - before + 4


def test_following_a_prompt_of_a_worse_lane_takes_no_longer_than_computing_it() -> None:
    def count_steps(realm: str) -> int:
        simulation = Simulation(
            cells=1 << 16, max_sequences=8, max_step_tokens=64, target_step_seconds=None
        )
        simulation.add(request(1, SYSTEM * 20 + "in bulk", 5, lane=Lane.BATCH, principal="bulk"))
        simulation.step()
        for id_ in range(10, 14):
            simulation.add(request(id_, f"{id_}" * 1000, 5, principal=f"{id_}"))
        simulation.add(request(2, SYSTEM * 20 + "hello?", 5, principal="alice", realm=realm))
        steps = 0
        while not simulation.answers[2][0]:
            simulation.step()
            steps += 1
        return steps

    following, computing = count_steps(""), count_steps("another")
    assert following <= computing


class TestRecurrentMemory:
    """A memory with states of exact lengths only."""

    def test_a_prompt_sent_by_many_at_once_is_computed_once(self) -> None:
        simulation = Simulation(
            cells=4096, max_sequences=6, max_step_tokens=512, behaviour=recurrent()
        )
        requests = [request(i, SYSTEM + f"user {i}", 1) for i in range(6)]
        for each in requests:
            simulation.add(each)

        simulation.run()

        assert simulation.computed == len(SYSTEM + "user ") + 6
        assert all(tuple(simulation.answers[r.id][0]) == expected(r) for r in requests)

    def test_without_checkpoints_nobody_waits_for_a_state_that_cannot_be_had(self) -> None:
        """Such a memory, or one that llama.cpp gives no part of, shares whole sequences only."""
        whole = Behaviour(
            memory_policy=MemoryPolicy.RECURRENT, cached_sequences=2, takes_checkpoints=False
        )
        simulation = Simulation(cells=4096, max_step_tokens=4096, behaviour=whole)
        requests = [request(id_, SYSTEM + f"user {id_}", 1) for id_ in (1, 2)]
        for each in requests:
            simulation.add(each)
        simulation.run()
        longer = request(3, [*requests[0].prompt, *b" goes on"], 1)
        simulation.add(longer)
        simulation.run()

        assert simulation.cached == {1: 0, 2: 0, 3: len(requests[0].prompt)}
        assert simulation.computed == 2 * len(requests[0].prompt) + len(" goes on")
        for each in (*requests, longer):
            assert tuple(simulation.answers[each.id][0]) == expected(each)

    def test_the_same_prompt_again_computes_its_last_tokens_only(self) -> None:
        simulation = Simulation(cells=1024, behaviour=recurrent())
        for id_ in (1, 2):
            simulation.add(request(id_, SYSTEM, 1))
            simulation.run()

        assert simulation.computed == len(SYSTEM) + 8

    def test_the_next_turn_of_a_chat_computes_only_what_is_new(self) -> None:
        simulation = Simulation(cells=1024, behaviour=recurrent())
        first = request(1, SYSTEM, 10)
        simulation.add(first)
        simulation.run()
        before = simulation.computed

        prompt = [*first.prompt, *simulation.answers[1][0], *b" and then?"]
        simulation.add(request(2, prompt, 1))
        simulation.run()

        assert simulation.computed - before == len(" and then?") + 1

    def test_nothing_is_drafted(self) -> None:
        simulation = Simulation(drafts=True, behaviour=recurrent())
        simulation.add(request(1, "speculate", 30))

        simulation.run()

        assert tuple(simulation.answers[1][0]) == expected(request(1, "speculate", 30))


class TestWindowMemory:
    """A prefix can be shared while its window is intact."""

    def test_it_shares_like_a_dense_one_while_nothing_is_lost(self) -> None:
        simulation = Simulation(behaviour=Behaviour(memory_policy=MemoryPolicy.WINDOW))
        for id_ in (1, 2):
            simulation.add(request(id_, SYSTEM + str(id_), 1))

        simulation.run()

        assert simulation.computed == len(SYSTEM) + 2

    def test_a_prefix_whose_window_is_lost_is_computed_again(self) -> None:
        simulation = Simulation(behaviour=Behaviour(memory_policy=MemoryPolicy.WINDOW))
        system = SYSTEM[:60]
        simulation.add(request(1, system + "a" * 100, 1))
        simulation.run()
        simulation.add(request(2, "neighbour " * 5, 1))  # takes cells before the first's window
        simulation.run()
        before = simulation.computed

        again = request(3, system + "b", 1)
        simulation.add(again)
        simulation.run()

        assert simulation.computed - before == len(again.prompt)
        assert tuple(simulation.answers[3][0]) == expected(again)

    def test_a_chat_continues_with_all_its_tokens_whatever_was_lost_before_the_window(self) -> None:
        simulation = Simulation(behaviour=Behaviour(memory_policy=MemoryPolicy.WINDOW))
        first = request(1, SYSTEM + "a" * 60, 1)
        simulation.add(first)
        simulation.run()
        simulation.add(request(2, "neighbour " * 5, 1))
        simulation.run()
        before = simulation.computed

        again = request(3, [*first.prompt, *b" and then?"], 1)
        simulation.add(again)
        simulation.run()

        assert simulation.computed - before == len(" and then?")
        assert tuple(simulation.answers[3][0]) == expected(again)
