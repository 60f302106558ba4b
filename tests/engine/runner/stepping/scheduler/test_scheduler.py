from __future__ import annotations

import pytest

from services.engine.backends.fake_behaviour import Behaviour
from services.shared.errors import ContextLengthExceeded, EngineBusy, InvalidRequest
from tests.engine.runner.stepping.simulation import Simulation, expected, request


def test_answers_in_a_batch_equal_answers_alone() -> None:
    simulation = Simulation()
    requests = [request(i, f"question {i}", 40) for i in range(9)]
    for each in requests:
        simulation.add(each)

    simulation.run()

    answers = {id_: tuple(got[0]) for id_, got in simulation.answers.items()}
    assert answers == {each.id: expected(each) for each in requests}


def test_generating_branches_come_before_prompts() -> None:
    simulation = Simulation(max_step_tokens=16)
    simulation.add(request(1, "a", 60))
    simulation.step()
    simulation.add(request(2, "b" * 100, 5))

    plan = simulation.step()

    assert [(chunk.branch.request.id, chunk.count) for chunk in plan.chunks] == [(1, 1), (2, 15)]


def test_a_prompt_takes_only_the_target_time_while_a_branch_generates() -> None:
    simulation = Simulation(cells=4096, max_step_tokens=2048)
    simulation.prompt_token_seconds = 0.001
    simulation.add(request(1, "a", 2000))
    simulation.step()
    simulation.step()
    simulation.add(request(2, "b" * 2000, 5))

    sizes = [simulation.step().prompt_tokens for _ in range(12)]

    # 0.05 s at 0.001 s per token, once that is measured
    assert sizes[0] == 16
    assert all(45 <= size <= 55 for size in sizes[-3:])


def test_principals_share_a_step_evenly() -> None:
    simulation = Simulation(cells=1024, max_step_tokens=128)
    simulation.add(request(1, "a" * 200, principal="alice"))
    simulation.add(request(2, "b" * 200, principal="bob"))

    plan = simulation.step()

    assert [chunk.count for chunk in plan.chunks] == [64, 64]


def test_a_prompt_deep_in_memory_fills_a_tile_with_the_answers_beside_it() -> None:
    simulation = Simulation(cells=4096, max_step_tokens=512, target_step_seconds=None)
    simulation.prompt_token_seconds = 0.01
    simulation.add(request(1, "a", 2000))
    simulation.step()
    simulation.add(request(2, "b" * 2000, 5))
    for _ in range(12):
        plan = simulation.step()

    assert [chunk.count for chunk in plan.chunks] == [1, 63]


def test_a_short_prompt_beside_much_other_memory_stays_below_a_tile() -> None:
    simulation = Simulation(
        cells=4096, max_step_tokens=512, max_sequences=9, target_step_seconds=None
    )
    simulation.prompt_token_seconds = 0.01
    for id_ in range(8):
        simulation.add(request(id_, f"{id_}" * 200, 2000))
    while simulation.step().prompt_tokens:
        pass
    simulation.add(request(9, "b" * 200, 5))

    plan = simulation.step()

    assert plan.chunks[-1].branch.request.id == 9
    assert plan.size == 63


def test_a_prompt_that_cannot_fit_is_refused_with_both_numbers() -> None:
    simulation = Simulation(cells=128)

    with pytest.raises(ContextLengthExceeded, match="maximum context length") as refused:
        simulation.add(request(1, "p" * 128))

    assert refused.value.details == {"prompt_tokens": 128, "context_length": 128}


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        Simulation().add(request(1, ""))


def test_a_full_queue_refuses_requests() -> None:
    simulation = Simulation(max_sequences=1, max_queued=3)
    for id_ in range(3):
        simulation.add(request(id_))

    with pytest.raises(EngineBusy):
        simulation.add(request(3))


def test_a_queue_that_one_principal_fills_has_room_for_another() -> None:
    simulation = Simulation(max_sequences=1, max_queued=4)
    for id_ in range(4):
        simulation.add(request(id_, principal="many"))

    for id_ in (4, 5):
        simulation.add(request(id_, principal="few"))

    with pytest.raises(EngineBusy):
        simulation.add(request(6, principal="many"))
    with pytest.raises(EngineBusy):
        simulation.add(request(7, principal="few"))


def test_the_context_ends_an_answer() -> None:
    simulation = Simulation(cells=64)
    asked = request(1, "never ends? z", 1000)
    simulation.add(asked)

    simulation.run()

    assert asked.max_length == 64
    assert tuple(simulation.answers[1][0]) == expected(asked)


@pytest.mark.parametrize("steps", [0, 1, 3], ids=["queued", "in its prompt", "generating"])
def test_cancelling_frees_everything_at_once(steps: int) -> None:
    simulation = Simulation(max_step_tokens=16, behaviour=Behaviour(cached_sequences=2))
    simulation.add(request(1, "p" * 30, 50, is_shareable=False))
    for _ in range(steps):
        simulation.step()

    simulation.cancel(1)

    assert simulation.scheduler.is_idle
    assert (simulation.scheduler.running, simulation.scheduler.queued) == (0, 0)
    assert simulation.sequence_pool.cells.used == 0


def test_cancelling_an_unknown_request_is_fine() -> None:
    Simulation().cancel(99)


@pytest.mark.parametrize("running", [1, 2], ids=["queued", "running"])
def test_a_deadline_ends_a_request(running: int) -> None:
    simulation = Simulation(cells=1024, max_sequences=running)
    simulation.add(request(1, "first", 500))
    simulation.add(request(2, "second", 500, deadline=0.035))

    simulation.run()

    assert simulation.ended == {1: "done", 2: "expired"}


def test_when_cells_run_out_the_youngest_waits_and_its_text_stays_the_same() -> None:
    simulation = Simulation(cells=128, max_sequences=3)
    requests = [request(i, f"prompt number {i} ", 80) for i in range(3)]
    for each in requests:
        simulation.add(each)

    simulation.run()

    assert simulation.scheduler.admission.preemptions > 0
    assert {r.id: tuple(simulation.answers[r.id][0]) for r in requests} == {
        r.id: expected(r) for r in requests
    }
    assert simulation.started == [0, 1, 2]  # reported once each, however often they were preempted


def test_cached_sequences_are_evicted_before_a_branch_is_preempted() -> None:
    simulation = Simulation(cells=128, max_sequences=2)
    simulation.add(request(1, "old " * 20, 5))
    simulation.run()
    assert simulation.sequence_pool.cached_count == 1

    simulation.add(request(2, "new " * 25, 5))
    simulation.run()

    assert simulation.scheduler.admission.preemptions == 0
    assert simulation.ended == {1: "done", 2: "done"}


def test_a_backend_with_fewer_cells_than_announced_is_handled() -> None:
    simulation = Simulation(cells=256, max_sequences=4, behaviour=Behaviour(hidden_cells=128))
    requests = [request(i, f"prompt number {i} ", 60) for i in range(4)]
    for each in requests:
        simulation.add(each)

    simulation.run()

    assert set(simulation.ended.values()) == {"done"}


def test_a_request_that_does_not_fit_alone_fails_alone() -> None:
    simulation = Simulation(cells=256, max_sequences=2, behaviour=Behaviour(hidden_cells=200))
    small, large = request(1, "small", 10), request(2, "l" * 150, 10)
    simulation.add(small)
    simulation.add(large)

    simulation.run()

    assert simulation.ended[1] == "done"
    assert simulation.ended[2] in ("no room", "too long")
    assert tuple(simulation.answers[1][0]) == expected(small)


def test_a_full_memory_does_not_lower_the_capacity_for_later_requests() -> None:
    simulation = Simulation(cells=512, behaviour=Behaviour(hidden_cells=128))
    for id_ in range(4):
        simulation.add(request(id_, f"{id_}" * 120, 60))
    simulation.run()
    assert simulation.sequence_pool.cells.capacity < 512

    simulation.add(request(9, "hello", 5))

    assert simulation.sequence_pool.cells.capacity == 512


def test_positions_are_reported_when_they_change() -> None:
    simulation = Simulation(max_sequences=1)
    simulation.step_seconds = 1.0
    for id_ in (1, 2, 3):
        simulation.add(request(id_, "q", 3))

    first = simulation.step()
    second = simulation.step()
    simulation.cancel(2)
    third = simulation.step()

    assert first.positions == [(2, 1), (3, 2)]
    assert second.positions == []
    assert third.positions == [(3, 1)]


def test_accepted_drafts_save_steps_and_change_no_text() -> None:
    plain, drafting = Simulation(), Simulation(drafts=True)
    counts = []
    for simulation in (plain, drafting):
        simulation.add(request(1, "speculate", 40))
        counts.append(0)
        while not simulation.scheduler.is_idle:
            simulation.step()
            counts[-1] += 1

    assert plain.answers == drafting.answers
    assert counts[1] < counts[0]


def test_nothing_is_drafted_while_a_prompt_waits() -> None:
    simulation = Simulation(drafts=True, max_step_tokens=32)
    simulation.add(request(1, "speculate", 40))
    simulation.step()
    simulation.add(request(2, "p" * 100, 1))

    plan = simulation.step()

    assert all(not chunk.drafts for chunk in plan.chunks)


def test_prompt_logits_use_only_the_rows_that_the_backend_reserved() -> None:
    simulation = Simulation(cells=1024, max_step_tokens=512)
    for id_ in (1, 2, 3):
        simulation.add(request(id_, f"{id_}" * 100, 2, wants_prompt_logits=True))

    sizes = [simulation.step() for _ in range(3)]

    assert all(sum(c.outputs for c in plan.chunks) <= 32 for plan in sizes)
    simulation.run()
    assert set(simulation.ended.values()) == {"done"}


def test_rows_of_a_split_memory_ascend_by_sequence_and_ids_have_few_gaps() -> None:
    # llama.cpp computes rows of separate memories together only while their ids ascend by one.
    simulation = Simulation(cells=4096, max_sequences=8, shares_cells=False)
    for id_, answer in enumerate((4, 40, 4, 40, 40)):
        simulation.add(request(id_, f"{id_}" * 20, answer, is_shareable=False))
    while len(simulation.ended) < 2:
        simulation.step()
    for id_ in (10, 11):  # they get the ids of those that ended
        simulation.add(request(id_, f"{id_}" * 20, 40, is_shareable=False))

    orders = []
    for _ in range(6):
        plan = simulation.step()
        orders.append([chunk.branch.sequence.id for chunk in plan.chunks if chunk.branch.sequence])

    assert orders == [[0, 1, 2, 3, 4]] * 6


def test_rows_of_a_shared_memory_stay_in_the_order_of_the_requests() -> None:
    simulation = Simulation(cells=4096, max_sequences=8)
    for id_, answer in enumerate((4, 40, 40)):
        simulation.add(request(id_, f"{id_}" * 20, answer, is_shareable=False))
    while not simulation.ended:
        simulation.step()
    simulation.add(request(10, "10" * 20, 40, is_shareable=False))
    simulation.step()

    plan = simulation.step()

    assert [chunk.branch.request.id for chunk in plan.chunks] == [1, 2, 10]
