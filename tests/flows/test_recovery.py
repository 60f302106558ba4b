"""Every killed process restarts by itself, and the stack answers again."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.flows.stack import RunningStack, build_greedy_body, get_text, iterate_events
from tests.waiting import SECONDS, until


def build_long_stream_body() -> dict[str, object]:
    return build_greedy_body("Count to 100.", stream=True, ignore_eos=True, max_tokens=3000)


def test_a_killed_runner_ends_its_stream_with_an_error_and_the_stack_stays_ready(
    stack: RunningStack,
) -> None:
    with (
        stack.http() as http,
        http.stream("POST", "/v1/chat/completions", json=build_long_stream_body()) as answer,
    ):
        chunks = iterate_events(answer)
        # The first chunk may come while the model is being loaded; it has the role only.
        assert any(get_text(chunk) for chunk in chunks)
        os.kill(stack.runner().pid, signal.SIGKILL)
        last = list(chunks)[-1]

    assert last["error"]["code"] == "runner_died"
    assert stack.readiness() == (200, [])  # a request succeeds, because it starts a new runner
    assert stack.ask_until_answered() == "Paris."


def test_ready_reports_a_missing_engine_until_it_answers_again(
    stack: RunningStack,
) -> None:
    os.kill(stack.get_pid("engine"), signal.SIGKILL)

    until(lambda: stack.readiness() == (503, ["the engine does not answer"]))
    assert stack.ask_until_answered() == "Paris."
    until(lambda: stack.readiness() == (200, []))


@pytest.mark.parametrize("service", ["engine", "puller", "redis", "api"])
def test_a_killed_service_restarts_and_the_stack_answers(stack: RunningStack, service: str) -> None:
    stack.kill(service)

    assert stack.ask_until_answered() == "Paris."
    until(lambda: stack.readiness() == (200, []))


def test_down_leaves_no_process_and_no_socket(stack: RunningStack) -> None:
    assert len(stack.list_processes()) >= 5
    assert stack.list_sockets() != []

    assert stack.down().returncode == 0
    assert stack.list_processes() == []
    assert stack.list_sockets() == []
    assert stack.cli("status").returncode == 1
    assert stack.up().returncode == 0
    assert stack.ask_until_answered() == "Paris."


def test_a_killed_supervisor_stops_the_whole_stack(stack: RunningStack) -> None:
    os.kill(stack.state().pid, signal.SIGKILL)

    assert stack.up().returncode == 0  # it waits until the old stack has stopped
    assert stack.ask_until_answered() == "Paris."


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_in_the_foreground_a_signal_stops_the_stack(tmp_path: Path, name: str) -> None:
    stack = RunningStack(tmp_path / "data")
    process = stack.up_in_foreground()
    assert process.stdout is not None
    assert process.stdout.readline().startswith(f"Spindll is ready at {stack.url}")
    process.send_signal(signal.Signals[name])

    _, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, errors.splitlines()[-1]) == (0, "stopped")
    assert stack.list_processes() == []
    assert stack.list_sockets() == []
