"""What the heartbeat thread reads while the loop changes it."""

from __future__ import annotations

import socket
import threading

import pytest

from services.engine.backends.fake import FakeBackend
from services.engine.core import LoadConfig, Sampling, Stopping, TextPiece
from services.engine.messages.commands import Stop, Submit
from services.engine.messages.reports import HEARTBEAT_SECONDS
from services.engine.runner.build import build_input_processor, build_step_batcher
from services.engine.runner.ipc.command_queue import CommandQueue
from services.engine.runner.ipc.report_writer import ReportWriter
from services.engine.runner.loop import EngineLoop

REQUESTS = 300


@pytest.mark.usefixtures("short_switch_interval")
def test_a_heartbeat_can_be_built_at_any_moment_of_a_step() -> None:
    config = LoadConfig(
        model_path="", backend="fake", context_length=4096, max_sequences=2, max_queued=REQUESTS
    )
    backend = FakeBackend(cells=4096, max_sequences=2)
    command_queue = CommandQueue()
    near, far = socket.socketpair()
    report_writer = ReportWriter(near)
    drain = threading.Thread(target=_read_all, args=(far,))
    drain.start()
    batcher = build_step_batcher(backend, config)
    loop = EngineLoop(batcher, command_queue, report_writer)
    input_processor = build_input_processor(batcher)
    for id_ in range(REQUESTS):
        submit = Submit(
            id=id_,
            pieces=(TextPiece(f"prompt {id_}"),),
            sampling=Sampling(temperature=0.0),
            stopping=Stopping(max_tokens=2),
            principal=str(id_ % 40),
        )
        command_queue.put(input_processor.prepare(submit, arrived_at=0.0))
    command_queue.put(Stop(drain_seconds=60.0))

    runner = threading.Thread(target=loop.run)
    runner.start()
    heartbeats = 0
    while runner.is_alive():
        heartbeat = loop.build_heartbeat()
        assert 0 <= heartbeat.running <= 2
        assert 0 <= heartbeat.queued <= REQUESTS
        heartbeats += 1
    runner.join()
    report_writer.close(HEARTBEAT_SECONDS)
    near.close()
    drain.join()
    far.close()

    assert heartbeats > 100
    assert loop.build_heartbeat().queued == 0


def _read_all(connection: socket.socket) -> None:
    while connection.recv(1 << 16):
        pass
