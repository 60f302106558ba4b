from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import msgspec
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.engine.core import Counters, LoadConfig
from services.engine.front.process import runner_process
from services.engine.front.process.frame_reader import FrameReader
from services.engine.front.process.launcher import ProcessLauncher
from services.engine.front.process.openmp import OpenMPWaitPolicy
from services.engine.front.process.runner_process import (
    HeartbeatState,
    RunnerProcess,
    RunnerTimeouts,
    find_timeout,
)
from services.engine.messages import commands, reports
from services.engine.messages.frames import HEADER, MAX_FRAME_BYTES, encode_frame
from tests.engine.engine_server import SCRIPTED_RUNNER, WAIT_SECONDS, eventually
from tests.fakes.scripted_runner import Script


class RecordingCallbacks:
    """Records what a FrameReader passes on."""

    def __init__(self) -> None:
        self.reports: list[reports.Report] = []
        self.errors: list[Exception] = []

    def on_report(self, report: reports.Report) -> None:
        self.reports.append(report)

    def on_invalid_data(self, error: Exception) -> None:
        self.errors.append(error)


def make_reader() -> tuple[FrameReader, RecordingCallbacks]:
    received = RecordingCallbacks()
    return FrameReader(received.on_report, received.on_invalid_data, lambda: None), received


REPORTS: list[reports.Report] = [
    reports.Progress(0.5),
    reports.StepReport([reports.Delta(1, 0, "x" * n, 1) for n in range(20)]),
    reports.Heartbeat(0.0, 1, 2, 3, Counters()),
    reports.StepReport([]),
]


@given(cuts=st.lists(st.integers(1, 500), max_size=30), seed=st.integers(0, 99))
def test_frames_are_read_whole_in_whatever_pieces_the_bytes_arrive(
    cuts: list[int], seed: int
) -> None:
    sent = random.Random(seed).choices(REPORTS, k=20)
    data = b"".join(encode_frame(report) for report in sent)
    reader, received = make_reader()
    start = 0
    for size in [*cuts, len(data)]:
        if data[start : start + size]:
            reader.data_received(data[start : start + size])
        start += size

    assert received.reports == sent
    assert received.errors == []


@pytest.mark.parametrize(
    "invalid",
    [
        HEADER.pack(3) + b"\xc1\xc1\xc1",
        HEADER.pack(MAX_FRAME_BYTES + 1),
        encode_frame(commands.Stop()),
    ],
    ids=["not msgpack", "too long", "a command"],
)
def test_invalid_data_is_reported_once_and_all_that_follows_is_dropped(invalid: bytes) -> None:
    reader, received = make_reader()
    reader.data_received(encode_frame(REPORTS[0]) + invalid)
    reader.data_received(encode_frame(REPORTS[1]))

    assert received.reports == REPORTS[:1]
    assert len(received.errors) == 1


@pytest.mark.parametrize(
    ("state", "now", "is_stuck"),
    [
        (HeartbeatState(is_ready=False, last_heartbeat_at=0), 299, False),
        (HeartbeatState(is_ready=False, last_heartbeat_at=0), 301, True),
        (HeartbeatState(is_ready=True, last_heartbeat_at=0), 14, False),
        (HeartbeatState(is_ready=True, last_heartbeat_at=0), 16, True),
        (HeartbeatState(is_ready=True, last_heartbeat_at=9, busy_seconds=299), 10, False),
        (HeartbeatState(is_ready=True, last_heartbeat_at=9, busy_seconds=301), 10, True),
    ],
)
def test_the_timeout_depends_on_what_the_runner_does(
    state: HeartbeatState, now: float, is_stuck: bool
) -> None:
    assert (find_timeout(state, RunnerTimeouts(), now) is not None) is is_stuck


async def start(tmp_path: Path, script: Script) -> tuple[RunnerProcess, asyncio.Queue[object]]:
    path = tmp_path / "model"
    path.write_bytes(msgspec.json.encode(script))
    received: asyncio.Queue[object] = asyncio.Queue()
    runner = await RunnerProcess.start(
        SCRIPTED_RUNNER,
        LoadConfig(model_path=str(path), backend="fake", context_length=16),
        timeouts=RunnerTimeouts(),
        wait_policy=OpenMPWaitPolicy(),
        on_report=received.put_nowait,
        on_exit=received.put_nowait,
    )
    return runner, received


async def wait_for_exit(received: asyncio.Queue[object]) -> str:
    while not isinstance(item := await asyncio.wait_for(received.get(), WAIT_SECONDS), str):
        pass
    return item


async def test_a_runner_exits_on_the_stop_command(tmp_path: Path) -> None:
    runner, received = await start(tmp_path, Script())
    while not isinstance(await asyncio.wait_for(received.get(), WAIT_SECONDS), reports.Ready):
        pass
    await runner.stop(grace_seconds=10)

    assert await wait_for_exit(received) == "exited"
    assert received.empty()


async def test_a_runner_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    runner, received = await start(tmp_path, Script(ignores_stop=True))
    await runner.stop(grace_seconds=0.1)

    assert await wait_for_exit(received) == "did not stop in time"
    runner.kill("twice is fine")
    runner.send(commands.Stop())


@pytest.mark.parametrize("method", ["kill_and_wait", "stop"])
async def test_a_cancel_while_a_runner_ends_is_raised_only_after_its_end(
    tmp_path: Path, method: str
) -> None:
    runner, received = await start(tmp_path, Script(ignores_stop=True))
    while not isinstance(await asyncio.wait_for(received.get(), WAIT_SECONDS), reports.Ready):
        pass
    ending = asyncio.create_task(
        runner.kill_and_wait("no longer needed")
        if method == "kill_and_wait"
        else runner.stop(grace_seconds=WAIT_SECONDS)
    )
    for _ in range(3):
        await asyncio.sleep(0)  # enough to start waiting, but not enough for the process to end
        assert not ending.done()
        ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending

    assert not psutil.pid_exists(runner.pid)
    last = [received.get_nowait() for _ in range(received.qsize())][-1]
    assert last == (
        "no longer needed" if method == "kill_and_wait" else "was not given the time to stop"
    )


async def test_a_dry_run_that_is_cancelled_again_while_it_ends_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").write_bytes(msgspec.json.encode(Script(no_estimate=True)))
    config = LoadConfig(model_path=str(tmp_path / "model"), backend="fake", context_length=16)
    killed = asyncio.Event()
    kill = RunnerProcess.kill

    def recording_kill(runner: RunnerProcess, reason: str) -> None:
        kill(runner, reason)
        killed.set()

    monkeypatch.setattr(RunnerProcess, "kill", recording_kill)
    before = set(psutil.Process().children())
    estimating = asyncio.create_task(
        ProcessLauncher(SCRIPTED_RUNNER, timeouts=RunnerTimeouts()).estimate(config)
    )
    await eventually(lambda: not set(psutil.Process().children()) <= before)
    estimating.cancel()
    await asyncio.wait_for(killed.wait(), WAIT_SECONDS)
    estimating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await estimating

    assert set(psutil.Process().children()) <= before


async def test_a_program_that_does_not_exist_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        await RunnerProcess.start(
            [str(tmp_path / "nothing")],
            LoadConfig(model_path="m", backend="fake", context_length=16),
            timeouts=RunnerTimeouts(),
            wait_policy=OpenMPWaitPolicy(),
            on_report=lambda _: None,
            on_exit=lambda _: None,
        )


async def test_a_start_that_is_cancelled_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons: list[str] = []

    connecting = asyncio.Event()

    async def never(*_: object, **__: object) -> None:
        connecting.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", never)
    config = LoadConfig(model_path=str(tmp_path), backend="fake", context_length=16)
    before = set(psutil.Process().children())
    starting = asyncio.create_task(
        RunnerProcess.start(
            SCRIPTED_RUNNER,
            config,
            timeouts=RunnerTimeouts(),
            wait_policy=OpenMPWaitPolicy(),
            on_report=lambda _: None,
            on_exit=reasons.append,
        )
    )
    await asyncio.wait_for(connecting.wait(), WAIT_SECONDS)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting

    assert reasons == ["could not be reached"]
    assert set(psutil.Process().children()) <= before


async def test_a_report_that_the_front_fails_to_handle_does_not_end_the_runner(
    tmp_path: Path,
) -> None:
    path = tmp_path / "model"
    path.write_bytes(msgspec.json.encode(Script()))
    exits: asyncio.Queue[str] = asyncio.Queue()
    heartbeats: asyncio.Queue[None] = asyncio.Queue()

    def fail(report: reports.Report) -> None:
        if isinstance(report, reports.Heartbeat):
            heartbeats.put_nowait(None)
        raise RuntimeError("a bug of the front")

    runner = await RunnerProcess.start(
        SCRIPTED_RUNNER,
        LoadConfig(model_path=str(path), backend="fake", context_length=16),
        timeouts=RunnerTimeouts(),
        wait_policy=OpenMPWaitPolicy(),
        on_report=fail,
        on_exit=exits.put_nowait,
    )
    for _ in range(2):
        await asyncio.wait_for(heartbeats.get(), WAIT_SECONDS)
    await runner.stop(grace_seconds=10)

    assert await asyncio.wait_for(exits.get(), WAIT_SECONDS) == "exited"


async def test_a_runner_that_cannot_be_killed_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, received = await start(tmp_path, Script(ignores_stop=True))
    with monkeypatch.context() as patch:
        patch.setattr(runner_process, "KILL_TIMEOUT_SECONDS", 0.2)
        patch.setattr(os, "killpg", lambda _pid, _signal: None)
        await runner.stop(grace_seconds=0.1)
        assert psutil.Process(runner.pid).is_running()

    runner.kill("the driver came back")
    assert await wait_for_exit(received) == "did not stop in time"
