"""Fairness between principals and lanes."""

from __future__ import annotations

import random

import pytest

from services.engine.backends import fake
from services.engine.core import Lane
from tests.engine.runner.stepping.simulation import Simulation, expected, request

LONG_ANSWER = "a" * 2000 + "l"  # its answer has 315 tokens


def test_one_request_behind_fifty_of_another_principal_starts_at_the_next_step() -> None:
    simulation = Simulation(cells=8192, max_sequences=8, max_step_tokens=256)
    for id_ in range(50):
        simulation.add(request(id_, f"{id_:02} flood ", 100, principal="flood"))
    for _ in range(5):
        simulation.step()
    simulation.add(request(99, "just this", 5, principal="alice"))

    steps = 0
    while 99 not in simulation.started:
        simulation.step()
        steps += 1

    assert steps == 1
    assert simulation.scheduler.admission.preemptions == 1  # a branch of the flood lost its place


def test_preempted_requests_keep_their_text() -> None:
    simulation = Simulation(cells=4096, max_sequences=3, max_step_tokens=256)
    requests = [request(i, f"{i:02} flood", 60, principal="flood") for i in range(8)]
    requests += [request(i, f"{i:02} other", 60, principal=f"user {i}") for i in range(8, 14)]
    for each in requests:
        simulation.add(each)
        simulation.step()

    simulation.run()

    assert {r.id: tuple(simulation.answers[r.id][0]) for r in requests} == {
        r.id: expected(r) for r in requests
    }


def test_an_interactive_request_takes_the_place_of_a_batch_one() -> None:
    simulation = Simulation(max_sequences=1)
    simulation.add(request(1, "batch", 200, lane=Lane.BATCH))
    simulation.step()
    simulation.add(request(2, "hello?", 3))

    simulation.step()

    assert simulation.started == [1, 2]


def test_ageing_brings_a_batch_request_through_interactive_ones() -> None:
    simulation = Simulation(max_sequences=1)
    simulation.step_seconds = 1.0
    simulation.add(request(0, "batch", 1, lane=Lane.BATCH))
    id_ = 0
    while 0 not in simulation.ended:
        id_ += 1
        simulation.add(request(id_, f"interactive {id_}", 1))
        simulation.step()
        assert id_ < 60

    assert id_ > 5


def test_a_batch_request_ends_while_interactive_ones_never_stop() -> None:
    simulation = Simulation(max_sequences=2, cells=2048, target_step_seconds=None)
    simulation.step_seconds = 0.1
    batch = request(1, "a batch prompt", 60, lane=Lane.BATCH, principal="batch")
    simulation.add(batch)
    id_ = 100
    while 1 not in simulation.ended:
        while len(simulation.answers) - len(simulation.ended) < 4:
            id_ += 1
            simulation.add(request(id_, f"interactive {id_}", 30, principal=f"{id_ % 3}"))
        simulation.step()
        assert simulation.now < 60

    assert tuple(simulation.answers[1][0]) == expected(batch)
    assert simulation.scheduler.admission.preemptions < 10


def test_interactive_requests_that_waited_long_do_not_displace_each_other() -> None:
    simulation = Simulation(max_sequences=2, cells=4096)
    simulation.step_seconds = 1.0
    for id_ in range(8):
        simulation.add(request(id_, f"{id_} question", 50, principal="alice"))

    simulation.run()

    assert simulation.scheduler.admission.preemptions == 0


def test_short_questions_pass_a_prompt_that_waits_for_cells() -> None:
    simulation = Simulation(
        cells=4096, max_sequences=16, max_step_tokens=512, target_step_seconds=None
    )
    simulation.add(request(1, LONG_ANSWER, 1500))
    for _ in range(10):
        simulation.step()
    simulation.add(request(2, "b" * 3000, 50))
    for id_ in range(3, 9):
        simulation.add(request(id_, f"short question {id_}", 10))

    simulation.step()
    simulation.step()

    assert set(simulation.started) == {1, 3, 4, 5, 6, 7, 8}


def test_what_passes_a_waiting_prompt_leaves_it_its_cells() -> None:
    simulation = Simulation(
        cells=1024, max_sequences=16, max_step_tokens=512, target_step_seconds=None
    )
    simulation.add(request(1, "a" * 300, 100))
    for _ in range(10):
        simulation.step()
    simulation.add(request(2, "b" * 800, 100))
    for id_ in range(3, 9):
        simulation.add(request(id_, f"{id_} middling" * 10, 60))  # 160 cells each

    while 2 not in simulation.started:
        simulation.step()

    assert simulation.started[1] == 2  # beside it there are 124 cells, the others need 160


def test_a_prompt_that_waits_for_cells_is_passed_for_a_limited_time() -> None:
    simulation = Simulation(
        cells=4096, max_sequences=16, max_step_tokens=512, target_step_seconds=None
    )
    simulation.step_seconds = 1.0
    simulation.add(request(1, LONG_ANSWER, 1500))
    for _ in range(10):
        simulation.step()
    simulation.add(request(2, "b" * 3000, 50))
    for _ in range(40):
        simulation.step()
    simulation.add(request(3, "short question", 10))
    for _ in range(5):
        simulation.step()

    assert simulation.started == [1]
    assert simulation.ended == {}


def test_a_leader_that_is_preempted_and_readmitted_makes_no_circle() -> None:
    simulation = Simulation(cells=512, max_sequences=4, max_step_tokens=32)
    simulation.add(request(1, "m" * 300, lane=Lane.BATCH, principal="a"))
    simulation.add(request(2, "s" * 150 + "one", lane=Lane.BATCH, principal="a"))
    simulation.step()
    simulation.add(request(3, "s" * 150 + "two", principal="b"))
    simulation.step()  # 3 follows 2
    simulation.add(request(4, "t" * 200, principal="c"))  # takes their places, and 2 fits again

    simulation.run()

    assert set(simulation.ended.values()) == {"done"}


def test_taking_places_from_its_own_principal_gives_no_claim_to_those_of_another() -> None:
    simulation = Simulation(cells=512, max_sequences=16, max_step_tokens=256)
    simulation.now = 100.0
    waiting = [
        (request(3, "c" * 40, 60, principal="y", lane=Lane.BATCH), 60),
        (request(4, "d" * 40, 60, principal="y", lane=Lane.BATCH), 60),
        (request(5, "e" * 40, 60, principal="y", lane=Lane.BACKGROUND), 50),
        (request(6, "f" * 150, 60, principal="y"), 90),
        (request(1, "a" * 40, 60, principal="x"), 0),
        (request(2, "b" * 40, 60, principal="x"), 0),
    ]
    for each, waited in waiting:
        simulation.add(each)
        each.arrived_at = simulation.now - waited
    simulation.step()
    simulation.step()
    simulation.add(request(7, "g" * 160, 60, principal="x"))

    simulation.run()

    assert set(simulation.ended.values()) == {"done"}
    assert simulation.scheduler.admission.preemptions < 20


def test_chats_beside_a_batch_answer_do_not_keep_a_large_prompt_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A head that outranks a running branch must not take a free place for ever."""
    monkeypatch.setattr(fake, "_END_INTERVAL", 1 << 40)  # answers have their full length
    draw = random.Random(1)
    simulation = Simulation(
        cells=4096, max_sequences=8, max_step_tokens=512, max_queued=1000, target_step_seconds=None
    )
    simulation.step_seconds = 0.5

    def text(size: int) -> bytes:
        return bytes(draw.choices(b"abcdefgh", k=size))

    simulation.add(request(1, text(20), 2000, lane=Lane.BATCH, principal="batch"))
    chats: list[int] = []
    for step in range(500):
        chats = [id_ for id_ in chats if id_ not in simulation.ended]
        if len(chats) < 6 and step % 11 == 0:
            chats.append(100 + step)
            simulation.add(request(100 + step, text(40), 60, principal=f"user {step}"))
        if step == 100:
            simulation.add(request(2, text(3900), 20, principal="large"))
            asked_at = simulation.now
        simulation.step()
        if 2 in simulation.started:
            break

    assert 2 in simulation.started
    assert simulation.now - asked_at < 100
