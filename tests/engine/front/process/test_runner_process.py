from __future__ import annotations

import asyncio
import random
from pathlib import Path

import msgspec
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.engine import messages
from services.engine.core import Counters, LoadConfig
from services.engine.front.process.frame_reader import Pipe
from services.engine.front.process.launcher import RunnerProgram
from services.engine.front.process.openmp import Spinning
from services.engine.front.process.runner_process import Patience, RunnerLink, Vitals, overdue
from tests.engine.engine_server import SCRIPTED, WAIT_SECONDS, eventually
from tests.fakes.scripted_runner import Script


class Heard:
    """Keeps what the pipe cut out."""

    def __init__(self) -> None:
        self.reports: list[messages.Report] = []
        self.errors: list[Exception] = []

    def take(self, report: messages.Report) -> None:
        self.reports.append(report)

    def garbled(self, error: Exception) -> None:
        self.errors.append(error)


def pipe() -> tuple[Pipe, Heard]:
    heard = Heard()
    return Pipe(heard.take, heard.garbled, lambda: None), heard


REPORTS: list[messages.Report] = [
    messages.Progress(0.5),
    messages.StepReport([messages.Delta(1, 0, "x" * n, 1) for n in range(20)]),
    messages.Heartbeat(0.0, 1, 2, 3, 4, Counters()),
    messages.StepReport([]),
]


@given(cuts=st.lists(st.integers(1, 500), max_size=30), seed=st.integers(0, 99))
def test_frames_come_out_whole_however_the_bytes_arrive(cuts: list[int], seed: int) -> None:
    sent = random.Random(seed).choices(REPORTS, k=20)
    data = b"".join(messages.encode_frame(report) for report in sent)
    cutter, heard = pipe()
    start = 0
    for size in [*cuts, len(data)]:
        if data[start : start + size]:
            cutter.data_received(data[start : start + size])
        start += size

    assert heard.reports == sent
    assert heard.errors == []


@pytest.mark.parametrize(
    "garbage",
    [
        messages.HEADER.pack(3) + b"\xc1\xc1\xc1",
        messages.HEADER.pack(messages.MAX_FRAME_BYTES + 1),
        messages.encode_frame(messages.Stop()),
    ],
    ids=["not msgpack", "too long", "a command"],
)
def test_garbage_is_noticed_once_and_nothing_after_it_is_believed(garbage: bytes) -> None:
    cutter, heard = pipe()
    cutter.data_received(messages.encode_frame(REPORTS[0]) + garbage)
    cutter.data_received(messages.encode_frame(REPORTS[1]))

    assert heard.reports == REPORTS[:1]
    assert len(heard.errors) == 1


@pytest.mark.parametrize(
    ("vitals", "now", "is_overdue"),
    [
        (Vitals(is_ready=False, last_sign=0), 299, False),
        (Vitals(is_ready=False, last_sign=0), 301, True),
        (Vitals(is_ready=True, last_sign=0), 14, False),
        (Vitals(is_ready=True, last_sign=0), 16, True),
        (Vitals(is_ready=True, last_sign=9, busy_seconds=299), 10, False),
        (Vitals(is_ready=True, last_sign=9, busy_seconds=301), 10, True),
    ],
)
def test_silence_is_judged_by_what_the_runner_is_doing(
    vitals: Vitals, now: float, is_overdue: bool
) -> None:
    assert (overdue(vitals, Patience(), now) is not None) is is_overdue


async def start(tmp_path: Path, script: Script) -> tuple[RunnerLink, asyncio.Queue[object]]:
    path = tmp_path / "model"
    path.write_bytes(msgspec.json.encode(script))
    heard: asyncio.Queue[object] = asyncio.Queue()
    link = await RunnerLink.start(
        SCRIPTED,
        LoadConfig(model_path=str(path), backend="fake", context_length=16),
        patience=Patience(),
        spinning=Spinning(),
        on_report=heard.put_nowait,
        on_gone=heard.put_nowait,
    )
    return link, heard


async def until_gone(heard: asyncio.Queue[object]) -> str:
    while not isinstance(item := await asyncio.wait_for(heard.get(), WAIT_SECONDS), str):
        pass
    return item


async def test_a_runner_that_is_told_to_stop_exits(tmp_path: Path) -> None:
    link, heard = await start(tmp_path, Script())
    while not isinstance(await asyncio.wait_for(heard.get(), WAIT_SECONDS), messages.Ready):
        pass
    await link.stop(grace_seconds=10)

    assert await until_gone(heard) == "exited"
    assert heard.empty()


async def test_a_runner_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    link, heard = await start(tmp_path, Script(ignores_stop=True))
    await link.stop(grace_seconds=0.1)

    assert await until_gone(heard) == "did not stop in time"
    link.kill("twice is fine")
    link.send(messages.Stop())


@pytest.mark.parametrize("way", ["end", "stop"])
async def test_a_cancel_while_a_runner_is_ended_is_heard_only_after_its_end(
    tmp_path: Path, way: str
) -> None:
    link, heard = await start(tmp_path, Script(ignores_stop=True))
    while not isinstance(await asyncio.wait_for(heard.get(), WAIT_SECONDS), messages.Ready):
        pass
    ending = asyncio.create_task(
        link.end("enough") if way == "end" else link.stop(grace_seconds=WAIT_SECONDS)
    )
    for _ in range(3):
        await asyncio.sleep(0)  # not enough for the process to end, enough to be waited for
        assert not ending.done()
        ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending

    assert not psutil.pid_exists(link.pid)
    last = [heard.get_nowait() for _ in range(heard.qsize())][-1]
    assert last == ("enough" if way == "end" else "was not given the time to stop")


async def test_a_dry_run_that_is_cancelled_again_while_it_ends_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").write_bytes(msgspec.json.encode(Script(no_estimate=True)))
    config = LoadConfig(model_path=str(tmp_path / "model"), backend="fake", context_length=16)
    killed = asyncio.Event()
    kill = RunnerLink.kill

    def heard_kill(link: RunnerLink, why: str) -> None:
        kill(link, why)
        killed.set()

    monkeypatch.setattr(RunnerLink, "kill", heard_kill)
    before = set(psutil.Process().children())
    estimating = asyncio.create_task(RunnerProgram(SCRIPTED, patience=Patience()).estimate(config))
    await eventually(lambda: not set(psutil.Process().children()) <= before)
    estimating.cancel()
    await asyncio.wait_for(killed.wait(), WAIT_SECONDS)
    estimating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await estimating

    assert set(psutil.Process().children()) <= before


async def test_a_program_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        await RunnerLink.start(
            [str(tmp_path / "nothing")],
            LoadConfig(model_path="m", backend="fake", context_length=16),
            patience=Patience(),
            spinning=Spinning(),
            on_report=lambda _: None,
            on_gone=lambda _: None,
        )


async def test_a_start_that_is_cancelled_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone: list[str] = []

    connecting = asyncio.Event()

    async def never(*_: object, **__: object) -> None:
        connecting.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", never)
    config = LoadConfig(model_path=str(tmp_path), backend="fake", context_length=16)
    before = set(psutil.Process().children())
    starting = asyncio.create_task(
        RunnerLink.start(
            SCRIPTED,
            config,
            patience=Patience(),
            spinning=Spinning(),
            on_report=lambda _: None,
            on_gone=gone.append,
        )
    )
    await asyncio.wait_for(connecting.wait(), WAIT_SECONDS)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting

    assert gone == ["could not be reached"]
    assert set(psutil.Process().children()) <= before
