"""The supervisor with real processes that follow a script (tests/fakes/scripted_service.py)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.cli.paths import StackPaths
from services.cli.supervise import state_file
from services.cli.supervise.reporting import StartReport, read_reports
from services.cli.supervise.stack import ROOT, STACK_VARIABLE
from tests.waiting import SECONDS, free_port, is_running, processes_with_environment, until

DRIVER = Path(__file__).resolve().parents[2] / "fakes" / "scripted_stack.py"


class Stack:
    def __init__(self, data_dir: Path, port: int, scripts: list[dict[str, Any]]) -> None:
        self.data_dir = data_dir
        self.paths = StackPaths(data_dir)
        options = {"data_dir": str(data_dir), "port": port, "grpc_port": 0}
        config = json.dumps({"options": options, "services": scripts})
        self.process = subprocess.Popen(
            [sys.executable, str(DRIVER), config],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self._reports = read_reports(os.dup(self.process.stdout.fileno()))
        self.process.stdout.close()

    def report(self) -> StartReport:
        return next(report for report in self._reports if report.kind != "progress")

    def pid(self, name: str) -> int | None:
        state = state_file.read(self.paths)
        found = {s.name: s.pid for s in state.services} if state else {}
        return found.get(name)

    def phase(self) -> str | None:
        state = state_file.read(self.paths)
        return state.phase if state else None

    def processes(self) -> list[psutil.Process]:
        return processes_with_environment(STACK_VARIABLE, str(self.data_dir))

    def is_gone(self) -> bool:
        return not self.processes() and not state_file.is_locked(self.paths)


Make = Callable[..., Stack]


@pytest.fixture
def make_stack(tmp_path: Path) -> Iterator[Make]:
    made: list[Stack] = []

    def make(**changes: Any) -> Stack:
        port = free_port()
        base: dict[str, dict[str, Any]] = {
            "redis": {"listens": True},
            "engine": {"listens": True, "needs": ["redis"]},
            "api": {"port": port, "needs": ["redis"]},
        }
        scripts = [{"name": n, **script, **changes.get(n, {})} for n, script in base.items()]
        stack = Stack(tmp_path / "data", port, scripts)
        made.append(stack)
        return stack

    yield make
    for stack in made:
        stack.process.send_signal(signal.SIGTERM)
        stack.process.wait(SECONDS)
    for stack in made:
        until(stack.is_gone)


def test_a_ready_stack_reports_a_curl_command(make_stack: Make) -> None:
    report = make_stack().report()

    assert report.kind == "ready"
    assert "curl http://127.0.0.1:" in report.text


def test_a_stop_ends_all_services_in_reverse_order_and_removes_their_files(
    make_stack: Make, tmp_path: Path
) -> None:
    trace = {"trace": str(tmp_path / "trace")}
    stack = make_stack(redis=trace, engine={**trace, "children": 2}, api=trace)
    stack.report()
    stack.process.terminate()

    assert stack.process.wait(SECONDS) == 0
    assert (tmp_path / "trace").read_text().split("\n")[-4:-1] == [
        "stop api",
        "stop engine",
        "stop redis",
    ]
    until(stack.is_gone)
    assert [p.name for p in stack.paths.run_dir.iterdir()] == ["stack.lock"]


def test_a_killed_service_is_restarted_and_its_children_are_killed(make_stack: Make) -> None:
    stack = make_stack(engine={"children": 2})
    stack.report()
    first = stack.pid("engine")
    assert first is not None
    children = until(lambda: psutil.Process(first).children())
    os.kill(first, signal.SIGKILL)

    until(lambda: stack.pid("engine") not in (None, first) and stack.phase() == "ready")
    until(lambda: not any(is_running(child) for child in children))


def test_a_service_that_ignores_sigterm_is_killed_after_its_drain(make_stack: Make) -> None:
    stack = make_stack(api={"ignores_sigterm": True, "drain": 0.2, "children": 1})
    stack.report()
    stack.process.terminate()

    assert stack.process.wait(SECONDS) == 0
    until(stack.is_gone)


def test_when_the_supervisor_is_killed_the_guard_ends_everything(make_stack: Make) -> None:
    stack = make_stack(engine={"children": 1}, api={"ignores_sigterm": True, "children": 1})
    stack.report()
    stack.process.kill()
    stack.process.wait()

    until(stack.is_gone)
    assert [p.name for p in stack.paths.run_dir.iterdir()] == ["stack.lock"]


def test_a_failed_start_reports_the_service_and_the_end_of_its_log(make_stack: Make) -> None:
    stack = make_stack(engine={"prints": "OSError: [Errno 28] No space left on device", "exits": 1})
    report = stack.report()

    assert report.kind == "failed"
    assert report.text.startswith("the engine cannot start: the disk is full")
    assert "No space left on device" in report.details
    assert stack.process.wait(SECONDS) == 1
    until(stack.is_gone)


def test_a_failed_start_reports_wrong_settings(make_stack: Make) -> None:
    stack = make_stack(engine={"prints": "SPINDLL_THREADS: must be a number", "exits": 2})

    assert stack.report().text == (
        "the engine does not accept its settings: SPINDLL_THREADS: must be a number"
    )


def test_a_second_stack_in_the_same_folder_is_refused_with_the_url_of_the_first(
    make_stack: Make,
) -> None:
    first, second = make_stack(), None
    first.report()
    second = make_stack()
    state = state_file.read(first.paths)
    assert state is not None

    assert second.report().text == (
        f"already running at {state.url} (data: {first.data_dir}); `down` stops it"
    )
    assert first.phase() == "ready"


def test_a_new_stack_waits_while_a_guard_that_has_removed_the_state_ends(make_stack: Make) -> None:
    before = make_stack()
    before.report()
    before.process.kill()
    before.process.wait()
    until(before.is_gone)
    guard_lock = state_file.take_lock(before.paths)
    assert guard_lock is not None
    after = make_stack()
    time.sleep(0.5)  # more than it takes to come to the lock
    os.close(guard_lock)

    assert after.report().kind == "ready"


def test_a_new_stack_cleans_up_after_a_supervisor_and_a_guard_that_were_killed(
    make_stack: Make,
) -> None:
    stack = make_stack(engine={"children": 1})
    stack.report()
    left = stack.processes()
    ours = psutil.Process(stack.process.pid)
    (guard,) = [p for p in ours.children() if "services.cli.supervise.guard" in p.cmdline()]
    guard.kill()
    stack.process.kill()
    stack.process.wait()
    until(lambda: not state_file.is_locked(stack.paths))
    again = make_stack()

    assert again.report().kind == "ready"
    assert not any(is_running(process) for process in left)
