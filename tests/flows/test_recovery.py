"""kill -9, one after another: each comes back by itself and work goes on."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.flows.stack import RunningStack, events, greedy
from tests.waiting import SECONDS, until


def long_stream() -> dict[str, object]:
    return greedy("Count to 100.", stream=True, ignore_eos=True, max_tokens=3000)


def test_a_killed_runner_ends_its_stream_with_an_error_and_nothing_else(
    stack: RunningStack,
) -> None:
    with (
        stack.http() as http,
        http.stream("POST", "/v1/chat/completions", json=long_stream()) as answer,
    ):
        chunks = events(answer)
        first = next(chunks)
        os.kill(stack.runner().pid, signal.SIGKILL)
        last = list(chunks)[-1]

    assert "choices" in first
    assert last["error"]["code"] == "runner_died"
    assert stack.readiness() == (200, [])  # a request would succeed: it starts a new runner
    assert stack.answers_again() == "Paris."


def test_while_the_engine_is_away_ready_says_so_and_then_takes_it_back(
    stack: RunningStack,
) -> None:
    os.kill(stack.pid_of("engine"), signal.SIGKILL)

    until(lambda: stack.readiness() == (503, ["the engine does not answer"]))
    assert stack.answers_again() == "Paris."
    until(lambda: stack.readiness() == (200, []))


@pytest.mark.parametrize("service", ["engine", "puller", "redis", "api"])
def test_a_killed_service_comes_back_and_the_stack_answers(
    stack: RunningStack, service: str
) -> None:
    stack.kill(service)

    assert stack.answers_again() == "Paris."
    until(lambda: stack.readiness() == (200, []))


def test_after_all_of_that_down_leaves_no_process_and_no_socket(stack: RunningStack) -> None:
    assert len(stack.processes()) >= 5
    assert stack.sockets() != []

    assert stack.down().returncode == 0
    assert stack.processes() == []
    assert stack.sockets() == []
    assert stack.cli("status").returncode == 1
    assert stack.up().returncode == 0
    assert stack.answers_again() == "Paris."


def test_a_killed_supervisor_takes_the_whole_stack_with_it(stack: RunningStack) -> None:
    os.kill(stack.state().pid, signal.SIGKILL)

    assert stack.up().returncode == 0  # it waits until the old one is gone
    assert stack.answers_again() == "Paris."


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_in_the_foreground_a_signal_stops_everything(tmp_path: Path, name: str) -> None:
    stack = RunningStack(tmp_path / "data")
    process = stack.up_in_the_foreground()
    assert process.stdout is not None
    assert process.stdout.readline().startswith(f"Spindll is ready at {stack.url}")
    process.send_signal(signal.Signals[name])

    _, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, errors.splitlines()[-1]) == (0, "stopped")
    assert stack.processes() == []
    assert stack.sockets() == []
