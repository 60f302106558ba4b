"""Prompts that others continue where a message ends, in memories that cannot be cut anywhere."""

from __future__ import annotations

import pytest

from services.engine.backends.fake_behaviour import Behaviour
from services.engine.core import MemoryPolicy
from services.engine.runner.stepping.kv import sequence_pool
from services.engine.runner.stepping.scheduler.cut_selection import list_cuts, space_cuts
from services.engine.runner.stepping.scheduler.request import Request
from tests.engine.runner.stepping.simulation import Simulation, expected, recurrent, request

SYSTEM = "You are a patient assistant who answers each of the questions in one short line. "
CUT = len(SYSTEM)
WHOLE = Behaviour(memory_policy=MemoryPolicy.RECURRENT, cached_sequences=4, takes_checkpoints=False)
WINDOW = Behaviour(memory_policy=MemoryPolicy.WINDOW, cached_sequences=4)


def chat(id_: int, question: str, tokens: int = 1, *, system: str = SYSTEM) -> Request:
    return request(id_, system + question, tokens, cuts=(len(system),))


def run(simulation: Simulation, *requests: Request) -> None:
    for each in requests:
        simulation.add(each)
        simulation.run()
        assert tuple(simulation.answers[each.id][0]) == expected(each)


@pytest.mark.parametrize(
    ("lengths", "length", "cuts"),
    [
        ((), 63, ()),
        ((), 64, (56,)),
        ((100,), 300, (100, 292)),
        ((100,), 171, (100,)),
        ((63,), 300, (292,)),
        ((100, 163, 164, 300), 300, (100, 164, 292)),
        ((200, 100), 300, (200, 292)),
        ((100,), 100, (92,)),
    ],
)
def test_a_cut_saves_clearly_more_than_the_one_before(
    lengths: tuple[int, ...], length: int, cuts: tuple[int, ...]
) -> None:
    assert list_cuts(request(1, "x" * length, cuts=space_cuts(lengths, length))) == cuts


@pytest.mark.parametrize(
    "behaviour", [recurrent(), WHOLE, WINDOW], ids=["state", "whole", "window"]
)
def test_another_chat_continues_where_the_system_prompt_ends(behaviour: Behaviour) -> None:
    simulation = Simulation(cells=2048, behaviour=behaviour)
    first = chat(1, "Why is the sky blue, and since when is it so? " * 3)
    run(simulation, first, request(9, "a neighbour takes cells before windows " * 6, 1))

    run(simulation, chat(2, "And the sea?"), chat(3, "Or the grass?"))

    assert (simulation.cached[2], simulation.cached[3]) == (CUT, CUT)


@pytest.mark.parametrize("behaviour", [recurrent(), WINDOW], ids=["state", "window"])
def test_a_prefix_remains_when_the_chat_that_computed_it_is_dropped(behaviour: Behaviour) -> None:
    simulation = Simulation(cells=1024, max_sequences=1, behaviour=behaviour)
    run(simulation, chat(1, "Why is the sky blue? " * 5), chat(2, "And the sea? " * 5))
    run(simulation, *(request(id_, f"{id_} other " * 9, 1) for id_ in (10, 11)))
    run(simulation, chat(3, "Or the grass?"))
    run(simulation, *(request(id_, f"{id_} other " * 9, 1) for id_ in (12, 13)))
    run(simulation, chat(4, "Is snow?"))

    assert [simulation.cached[id_] for id_ in (2, 3, 4)] == [CUT, CUT, CUT]


def test_many_prefixes_leave_room_for_chats() -> None:
    """A quarter of the sequences at most; those that were not used for longest are dropped."""
    behaviour = Behaviour(memory_policy=MemoryPolicy.WINDOW, cached_sequences=7)
    simulation = Simulation(cells=1 << 14, max_sequences=1, behaviour=behaviour)
    systems = [f"{n}: {SYSTEM}" for n in range(6)]
    run(simulation, *(chat(n, "x" * 70, system=system) for n, system in enumerate(systems)))

    kept = [s for s in simulation.sequence_pool._cached.values() if s.is_prefix]

    assert [bytes(s.tokens).decode() for s in kept] == systems[-2:]


def test_a_prefix_that_is_kept_already_is_not_kept_twice() -> None:
    simulation = Simulation(cells=4096, behaviour=WINDOW)
    run(simulation, chat(1, "a" * 70))
    simulation.sequence_pool.drop_cached({0})
    run(simulation, chat(2, "b" * 70), chat(3, "c" * 70))

    assert sum(s.is_prefix for s in simulation.sequence_pool._cached.values()) == 1


def test_of_the_checkpoints_those_that_are_used_remain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long chat leaves many that are not used again; the system prompt's is older."""
    monkeypatch.setattr(sequence_pool, "MAX_CHECKPOINT_BYTES", 3 << 10)
    simulation = Simulation(cells=1 << 14, max_sequences=1, behaviour=recurrent())
    run(simulation, chat(1, "Why is the sky blue?"))
    for id_ in range(2, 30):
        run(simulation, chat(id_, f"{id_}, a question with many words, more than a few. " * 3))

    assert all(simulation.cached[id_] == CUT for id_ in range(2, 30))
    assert simulation.sequence_pool._checkpoints._bytes <= 3 << 10


def test_chats_of_another_realm_get_nothing() -> None:
    for behaviour in (recurrent(), WINDOW):
        simulation = Simulation(cells=2048, behaviour=behaviour)
        run(simulation, chat(1, "a" * 70))
        other = chat(2, "b" * 70)
        other.realm = "bob"
        run(simulation, other)

        assert simulation.cached[2] == 0


def test_a_request_that_shares_nothing_keeps_nothing() -> None:
    for behaviour in (recurrent(), WINDOW):
        simulation = Simulation(cells=2048, behaviour=behaviour)
        hidden = chat(1, "a" * 70)
        hidden.is_shareable = False
        run(simulation, hidden, chat(2, "b" * 70))

        assert simulation.cached[2] == 0
