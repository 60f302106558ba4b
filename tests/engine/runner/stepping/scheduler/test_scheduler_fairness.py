"""Fairness between principals and lanes."""

from __future__ import annotations

from services.engine.core import Lane
from tests.engine.runner.stepping.simulation import Simulation, expected, request


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
    assert simulation.scheduler.preemptions == 1  # a branch of the flood lost its place


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
    while 0 not in simulation.started:
        id_ += 1
        simulation.add(request(id_, f"interactive {id_}", 1))
        simulation.step()
        assert id_ < 60

    assert id_ > 5
