"""A runner that is killed while it answers: when the client hears of it, and when all works again."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import psutil

from bench.answer import parse_recording
from bench.gpu.devices import open_probe
from bench.gpu.measuring import Case, Measuring
from bench.gpu.scale import Scale
from bench.load import send_request
from bench.prompts import LoadRequest, build_text
from bench.scenarios.plan import warm_up
from bench.servers.start import SPINDLL, RunningServer, start_servers
from bench.wire import Recording, record
from services.engine.core import HOST
from services.engine.memory.probe import measure_free_bytes

NAME = "kill"
NEEDS_STACK = True
_RUNNER = "services.engine.runner"
_STREAM = LoadRequest(prompt=build_text(12, 77), max_tokens=2000)
_NEXT = LoadRequest(prompt=build_text(12, 78), max_tokens=4)
_EVENTS_BEFORE_KILL = 3
_WAIT_SECONDS = 120.0
_RETRY_SECONDS = 0.05


def list_cases(scale: Scale) -> list[Case]:
    return [{"model": model} for model in scale.models]


def run(case: Case, measuring: Measuring) -> None:
    plan = measuring.build_plan(str(case["model"]))
    options = plan.server_options(context_tokens=4096, sequences=4)
    with start_servers((SPINDLL,), options, plan.peers, plan.workdir) as servers:
        server = servers[0]
        warm_up(server)
        before = measure_free_bytes(open_probe())
        for round_number in range(measuring.scale.rounds):
            error_seconds, recovery_seconds = asyncio.run(_kill_mid_answer(server))
            measuring.results.add(
                f"{NAME} {case['model']}",
                "mid-answer",
                server.name,
                round_number,
                error_after_ms=1000 * error_seconds,
                next_answer_after_ms=1000 * recovery_seconds,
            )
        after = measure_free_bytes(open_probe())
        for pool in before:
            if pool != HOST:
                left = (before[pool] - after[pool]) / 2**20
                measuring.results.add(
                    f"{NAME} {case['model']}", "after all", pool, 0, left_mib=left
                )


async def _kill_mid_answer(server: RunningServer) -> tuple[float, float]:
    """Seconds from the kill to the end of the broken stream, and to the next first token."""
    recording = Recording(progress=asyncio.Event())
    async with asyncio.timeout(_WAIT_SECONDS), asyncio.TaskGroup() as group:
        encoded = server.target.encode(_STREAM)
        address = server.target.address
        group.create_task(record(address, encoded, recording, timeout_seconds=_WAIT_SECONDS))
        assert recording.progress is not None
        while len(recording.arrivals) < _EVENTS_BEFORE_KILL and recording.ended_at is None:
            recording.progress.clear()
            await recording.progress.wait()
        killed_at = time.perf_counter()
        os.kill(find_runner(server.pid), signal.SIGKILL)
        while recording.ended_at is None:
            recording.progress.clear()
            await recording.progress.wait()
    if parse_recording(recording).error is None:
        raise RuntimeError("the stream of a killed runner ended without an error")
    return recording.ended_at - killed_at, await _wait_for_answer(server) - killed_at


async def _wait_for_answer(server: RunningServer) -> float:
    """When the first token of the next answer arrives, on the clock of recordings."""
    async with asyncio.timeout(_WAIT_SECONDS):
        while True:
            answer = await send_request(server.target, _NEXT, timeout_seconds=_WAIT_SECONDS)
            if answer.has_succeeded:
                return answer.arrival_times[0]
            await asyncio.sleep(_RETRY_SECONDS)


def find_runner(root: int) -> int:
    """The process id of the only runner below the process `root`."""
    found = [
        child.pid
        for child in psutil.Process(root).children(recursive=True)
        if _RUNNER in child.cmdline()
    ]
    if len(found) != 1:
        raise RuntimeError(f"{len(found)} runners instead of one")
    return found[0]
