"""The command queue between the threads that put and the loop that takes."""

from __future__ import annotations

import threading

import pytest

from services.engine.messages.commands import Stop
from services.engine.runner.ipc.command_queue import CommandQueue

PUTS = 20_000
WAIT_SECONDS = 30


@pytest.mark.usefixtures("short_switch_interval")
def test_every_command_arrives_and_an_empty_queue_does_not_wake_the_loop() -> None:
    command_queue = CommandQueue()
    taken = empty = 0

    def put() -> None:
        for _ in range(PUTS):
            command_queue.put(Stop())

    putter = threading.Thread(target=put)
    putter.start()
    while taken < PUTS:
        command_queue.wait(WAIT_SECONDS)
        commands = command_queue.take()
        taken += len(commands)
        empty += not commands
    putter.join()
    command_queue.take()

    assert taken == PUTS
    assert empty <= PUTS  # one wake-up without a command per put at most, never one after another
    assert not command_queue.wait(0)


def test_a_put_that_was_interrupted_does_not_leave_the_queue_awake() -> None:
    """The loop takes a command after `put` appended it and before `put` wakes the loop."""
    command_queue = CommandQueue()
    command_queue._commands.append(Stop())
    assert command_queue.take() == [Stop()]
    command_queue._filled.set()

    assert command_queue.wait(0)
    assert command_queue.take() == []
    assert not command_queue.wait(0)
