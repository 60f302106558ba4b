"""Runners that crash, hang or send invalid data: their requests fail once, all others go on."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from grpc import aio

from protos import engine_pb2 as pb
from protos.engine_pb2_grpc import EngineStub
from tests.engine.engine_server import (
    SCRIPTED_RUNNER,
    RunningFront,
    SessionClient,
    add_scripted_model,
    eventually,
    running_front,
)
from tests.fakes.scripted_runner import Script

FOREVER = pb.Stopping(max_tokens=1_000_000)


def find_pid(front: RunningFront, name: str) -> int:
    (model,) = [m for m in front.engine.pool.models if m.name.startswith(name)]
    assert model.runner is not None
    return model.runner.pid


def has_ended(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


async def test_a_killed_runner_fails_its_requests_once_and_the_next_request_works(
    tmp_path: Path,
) -> None:
    add_scripted_model(tmp_path, "victim")
    add_scripted_model(tmp_path, "bystander")
    async with running_front(tmp_path) as front:
        client = front.client()
        bystander = await client.submit(
            "bystander", "!slow on", stopping=pb.Stopping(max_tokens=40)
        )
        interrupted = [
            await client.submit("victim", f"!slow {n}", stopping=FOREVER) for n in range(3)
        ]
        for request in interrupted:
            await client.until(request, "delta")
        os.kill(find_pid(front, "victim"), signal.SIGKILL)
        ends = [(await client.answer(request))[1] for request in interrupted]
        text, last = await client.ask("victim", "again")

        assert [e.error.code for e in ends] == ["runner_died"] * 3
        assert all(e.error.retry_after_seconds >= 1 for e in ends)
        assert (text, last.WhichOneof("kind")) == ("again ", "finished")
        assert (await client.answer(bystander))[0] == "on " * 40
        assert all(client._events[request].empty() for request in interrupted)
        assert "SIGKILL" in (await front.loaded()).problems[0]


@pytest.mark.parametrize(
    ("command", "settings", "words"),
    [
        ("freeze", {"beat_deadline_seconds": 3.0}, "stopped answering"),
        ("busy", {"step_deadline_seconds": 1.0}, "stuck in one step"),
        ("garbage", {}, "unreadable"),
        ("die", {}, "SIGKILL"),
    ],
)
async def test_a_stuck_runner_is_killed_and_replaced(
    tmp_path: Path, command: str, settings: dict[str, Any], words: str
) -> None:
    add_scripted_model(tmp_path, "words")
    async with running_front(tmp_path, **settings) as front:
        client = front.client()
        request = await client.submit("words", f"!{command} 3 x", stopping=FOREVER)
        first = await client.until(request, "delta")
        pid = find_pid(front, "words")
        text, last = await client.answer(request)
        again, _ = await client.ask("words", "again")
        problems = (await front.loaded()).problems

    assert last.error.code == "runner_died"
    assert "x" in first.delta.text + text or command != "busy"
    assert again == "again "
    assert has_ended(pid)
    assert words in problems[0]


async def test_a_load_without_progress_fails(tmp_path: Path) -> None:
    add_scripted_model(tmp_path, "stuck", Script(never_ready=True))
    async with running_front(tmp_path, load_stall_seconds=1.0) as front:
        _, last = await front.client().ask("stuck", "a")

    assert last.error.code == "model_load_failed"
    assert "made no progress" in last.error.message


async def test_a_failed_load_reports_the_reason_of_the_runner(tmp_path: Path) -> None:
    add_scripted_model(
        tmp_path, "bad", Script(load_failed="the file ends in the middle of a tensor")
    )
    async with running_front(tmp_path) as front:
        _, last = await front.client().ask("bad", "a")

    assert last.error.code == "model_load_failed"
    assert last.error.message == "the file ends in the middle of a tensor"


async def test_a_runner_that_aborts_while_loading_fails_the_load(tmp_path: Path) -> None:
    add_scripted_model(tmp_path, "bad", Script(dies_loading=True, no_estimate=True))
    async with running_front(tmp_path) as front:
        _, last = await front.client().ask("bad", "a")

    assert last.error.code == "model_load_failed"
    assert last.error.message == (
        "the process of bad:latest was ended by SIGABRT while it loaded the model"
    )


async def test_a_model_that_keeps_crashing_backs_off_until_a_load_call(
    tmp_path: Path,
) -> None:
    add_scripted_model(tmp_path, "words")
    async with running_front(tmp_path) as front:
        client = front.client()
        codes = []
        for _ in range(3):
            _, last = await client.ask("words", "!die 1 x", stopping=FOREVER)
            codes.append(last.error.code)
        loaded = await front.loaded()
        # A Load call ends the back-off.
        await front.stub.Load(pb.LoadRequest(model="words"))
        text, _ = await client.ask("words", "well")

    assert codes == ["runner_died", "runner_died", "engine_unavailable"]
    assert last.error.retry_after_seconds >= 1
    assert [m.state for m in loaded.models] == [pb.MODEL_STATE_BACKING_OFF]
    assert "2 times in a row" in loaded.problems[0]
    assert text == "well "


async def test_a_request_whose_deadline_passes_while_it_waits_fails(tmp_path: Path) -> None:
    add_scripted_model(tmp_path, "stuck", Script(never_ready=True))
    async with running_front(tmp_path) as front:
        _, last = await front.client().ask("stuck", "a", deadline_seconds=0.1)

    assert last.error.code == "deadline_exceeded"


async def test_more_waiting_requests_than_allowed_are_refused(tmp_path: Path) -> None:
    add_scripted_model(tmp_path, "stuck", Script(never_ready=True))
    async with running_front(tmp_path, max_queued=2) as front:
        client = front.client()
        for text in ("a", "b"):
            await client.until(await client.submit("stuck", text), "queued")
        _, last = await client.ask("stuck", "c")

    assert last.error.code == "engine_busy"
    assert last.error.retry_after_seconds == 2


async def test_drain_finishes_running_requests_and_refuses_new_ones(tmp_path: Path) -> None:
    add_scripted_model(tmp_path, "words")
    async with running_front(tmp_path) as front:
        client = front.client()
        request = await client.submit("words", "!slow x", stopping=pb.Stopping(max_tokens=20))
        await client.until(request, "delta")
        pid = find_pid(front, "words")
        draining = asyncio.create_task(front.engine.stop(drain_seconds=20))
        await eventually(lambda: front.engine.pool.is_draining)
        health = await front.stub.Health(pb.HealthRequest())
        _, refused = await client.ask("words", "late")
        text, last = await client.answer(request)
        await draining

    assert not health.accepting
    assert refused.error.code == "engine_unavailable"
    assert "x " * 19 in text
    assert last.finished.reason == pb.FINISH_REASON_LENGTH
    assert has_ended(pid)


async def test_after_the_drain_time_running_requests_end_with_an_error(tmp_path: Path) -> None:
    add_scripted_model(tmp_path, "words", Script(ignores_stop=True))
    async with running_front(tmp_path) as front:
        client = front.client()
        request = await client.submit("words", "!slow x", stopping=FOREVER)
        await client.until(request, "delta")
        pid = find_pid(front, "words")
        stopping = asyncio.create_task(front.engine.stop(drain_seconds=0.2))
        text, last = await client.answer(request)
        await stopping

    assert text.startswith("x ")
    assert (last.error.code, last.error.message) == (
        "engine_unavailable",
        "the engine is shutting down",
    )
    assert has_ended(pid)


class FrontProcess:
    """`python -m services.engine`, with the scripted runner in place of the real one."""

    MAIN = (
        "import sys; from services.engine.front.process import launcher;"
        "launcher.RUNNER_COMMAND = tuple(sys.argv[1:]);"
        "from services.engine import __main__ as m; sys.exit(m.main())"
    )

    def __init__(self, data: Path, address: str, **settings: str) -> None:
        environment = dict(os.environ)
        environment |= {"SPINDLL_DATA_DIR": str(data), "SPINDLL_ENGINE_ADDRESS": address}
        environment |= {f"SPINDLL_{k.upper()}": v for k, v in settings.items()}
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.MAIN, *SCRIPTED_RUNNER],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self) -> str:
        if self.process.poll() is None:
            self.process.kill()
        return self.process.communicate(timeout=20)[1]


async def wait_healthy(channel: aio.Channel) -> Any:
    stub: Any = EngineStub(channel)
    await asyncio.wait_for(channel.channel_ready(), 30)
    assert (await stub.Health(pb.HealthRequest())).accepting
    return stub


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "terminate"])
async def test_no_runner_outlives_the_front(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, number: signal.Signals
) -> None:
    add_scripted_model(tmp_path, "words")
    address = f"127.0.0.1:{_free_port()}"
    front = FrontProcess(tmp_path, address, drain_seconds="20")
    try:
        async with aio.insecure_channel(address) as channel:
            stub = await wait_healthy(channel)
            client = SessionClient(stub)
            request = await client.submit("words", "!slow x", stopping=pb.Stopping(max_tokens=30))
            await client.until(request, "delta")
            (model,) = (await stub.Loaded(pb.LoadedRequest())).models
            front.process.send_signal(number)
            if number == signal.SIGTERM:
                _, last = await client.answer(request)
                assert last.finished.reason == pb.FINISH_REASON_LENGTH
            await eventually(lambda: front.process.poll() is not None)
            await eventually(lambda: has_ended(model.pid))
            await client.close()
    finally:
        log = front.end()

    assert front.process.returncode == (0 if number == signal.SIGTERM else -signal.SIGKILL), log


async def test_a_second_front_on_the_same_port_fails_with_a_log_entry(tmp_path: Path) -> None:
    address = f"127.0.0.1:{_free_port()}"
    first = FrontProcess(tmp_path, address)
    try:
        async with aio.insecure_channel(address) as channel:
            await wait_healthy(channel)
            second = FrontProcess(tmp_path, address)
            log = await asyncio.to_thread(second.process.communicate, timeout=30)
    finally:
        first.end()

    assert second.process.returncode == 1
    assert "cannot listen" in log[1]


def test_an_invalid_setting_stops_the_start_and_is_named(tmp_path: Path) -> None:
    front = FrontProcess(tmp_path, "127.0.0.1:0", memory_budget="lots")
    _, log = front.process.communicate(timeout=30)

    assert front.process.returncode == 2
    assert log.startswith("SPINDLL_MEMORY_BUDGET: ")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("context_lenght = 4096", "there is no setting `context_lenght`"),
        ('cache_type_v = "q8_0"', "cache_type_v: a quantised type needs flash attention"),
    ],
    ids=["an unknown field", "a field that does not fit the engine's settings"],
)
def test_a_wrong_line_in_a_models_file_stops_the_start_and_both_are_named(
    tmp_path: Path, line: str, sentence: str
) -> None:
    (tmp_path / "models.d").mkdir()
    (tmp_path / "models.d" / "qwen.toml").write_text(f'model = "qwen"\n{line}\n')
    front = FrontProcess(tmp_path, "127.0.0.1:0", flash_attention="false")
    _, log = front.process.communicate(timeout=30)

    assert front.process.returncode == 2
    assert log == f"models.d/qwen.toml: {sentence}\n"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
