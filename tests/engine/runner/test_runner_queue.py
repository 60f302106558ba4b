"""Requests of a runner wait in turn, end early or are refused, and a stop drains them."""

from __future__ import annotations

from pathlib import Path

from services.engine.core import FinishReason, Lane, Stopping
from services.engine.messages import commands, reports
from tests.engine.runner.child_runner import (
    ChildRunner,
    fake_config,
    submit,
    write_behaviour,
)

ENDLESS = Stopping(max_tokens=100_000, ignore_eos=True)


def test_stopping_lets_running_answers_finish_and_refuses_new_ones() -> None:
    with ChildRunner(fake_config(context_length=65_536)) as runner:
        runner.wait_for_first(reports.Ready)
        runner.send(submit(1, "x", stopping=Stopping(max_tokens=3000, ignore_eos=True)))
        runner.send(commands.Stop(drain_seconds=60.0))
        runner.send(submit(2, "y"))
        running, refused = runner.wait_for_answer(1), runner.wait_for_answer(2)
        status = runner.process.wait(30)

    assert running.finished[0].completion_tokens == 3000
    assert refused.error_code == "engine_unavailable"
    assert status == 0


def test_stopping_without_drain_time_fails_running_requests() -> None:
    with ChildRunner(fake_config()) as runner:
        runner.send(submit(1, "x", stopping=ENDLESS))
        runner.wait_until(lambda: 1 in runner.answered and runner.answered[1].started)
        runner.send(commands.Stop())
        code = runner.wait_for_answer(1).error_code
        status = runner.process.wait(30)

    assert (code, status) == ("engine_unavailable", 0)


def test_a_deadline_ends_running_and_waiting_requests(tmp_path: Path) -> None:
    load = fake_config(
        write_behaviour(tmp_path, step_seconds=0.01), max_sequences=1, context_length=65_536
    )
    with ChildRunner(load) as runner:
        runner.send(submit(1, "running", stopping=ENDLESS, deadline_seconds=0.2))
        runner.send(submit(2, "waiting", stopping=ENDLESS, deadline_seconds=0.1))
        runner.send(submit(3, "after both"))

        assert runner.wait_for_answer(1).error_code == "deadline_exceeded"
        assert runner.wait_for_answer(2).error_code == "deadline_exceeded"
        assert runner.wait_for_answer(3).failed is None


def test_cancelling_during_a_prompt_stops_it_at_the_next_step(tmp_path: Path) -> None:
    load = fake_config(
        write_behaviour(tmp_path, step_seconds=0.05), context_length=65_536, batch_tokens=64
    )
    with ChildRunner(load) as runner:
        runner.send(submit(1, "p" * 60_000))
        runner.wait_until(lambda: 1 in runner.answered and runner.answered[1].started)
        runner.send(commands.Cancel((1, 77)))
        cancelled = runner.wait_for_answer(1)
        counters = runner.next_heartbeat().counters

    assert cancelled.reason is FinishReason.CANCELLED
    assert cancelled.finished[0].completion_tokens == 0
    assert counters.computed_tokens < 30_000


def test_a_full_queue_fails_requests_as_busy(tmp_path: Path) -> None:
    load = fake_config(
        write_behaviour(tmp_path, step_seconds=0.02),
        max_sequences=1,
        max_queued=2,
        context_length=65_536,
    )
    with ChildRunner(load) as runner:
        runner.send(submit(0, "runs", stopping=ENDLESS))
        runner.wait_until(lambda: 0 in runner.answered and runner.answered[0].started)
        for id_ in (1, 2, 3):
            runner.send(submit(id_, "waits"))
        refused = runner.wait_for_answer(3)
        runner.wait_until(lambda: 2 in runner.answered)

        assert refused.error_code == "engine_busy"
        assert refused.failed is not None
        assert refused.failed.error["retry_after_seconds"] == 2.0
        assert (runner.answered[1].positions, runner.answered[2].positions) == ([1], [2])


def test_fifty_requests_of_one_principal_do_not_delay_another(tmp_path: Path) -> None:
    load = fake_config(
        write_behaviour(tmp_path, step_seconds=0.005), max_sequences=4, context_length=65_536
    )
    with ChildRunner(load) as runner:
        for id_ in range(50):
            stopping = Stopping(max_tokens=100, ignore_eos=True)
            runner.send(submit(id_, f"{id_:02}", principal="flood", stopping=stopping))
        runner.wait_until(lambda: 3 in runner.answered and runner.answered[3].deltas)
        runner.complete(submit(99, "hello", principal="alice", stopping=Stopping(max_tokens=3)))
        ended = sum(bool(runner.answered[id_].finished) for id_ in range(50))

        assert ended < 50 - 4
        for id_ in range(50):
            assert runner.wait_for_answer(id_).finished[0].completion_tokens == 100


def test_a_batch_request_yields_to_an_interactive_one(tmp_path: Path) -> None:
    load = fake_config(
        write_behaviour(tmp_path, step_seconds=0.005), max_sequences=1, context_length=65_536
    )
    with ChildRunner(load) as runner:
        slow = Stopping(max_tokens=400, ignore_eos=True)
        runner.send(submit(1, "in bulk", lane=Lane.BATCH, stopping=slow))
        runner.wait_until(lambda: 1 in runner.answered and runner.answered[1].deltas)
        runner.complete(submit(2, "hello", stopping=Stopping(max_tokens=3)))
        assert not runner.answered[1].finished

        assert runner.wait_for_answer(1).finished[0].completion_tokens == 400
