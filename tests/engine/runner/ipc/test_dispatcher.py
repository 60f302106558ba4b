"""Constrained requests delay no other request, and a Cancel or a Stop also reaches them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import llguidance
import pytest

from services.engine import messages
from services.engine.backends import open_backend
from services.engine.core import Constraint
from services.engine.messages import Cancel, Start, Stop, Submit, Tokenize
from services.engine.runner.ipc.command_queue import CommandQueue, LoopCommand
from services.engine.runner.ipc.dispatcher import Dispatcher
from services.engine.runner.ipc.report_writer import ReportWriter
from services.engine.runner.requests.input_processor import InputProcessor, PreparedRequest
from services.engine.runner.requests.structured_output import ConstraintCompiler, build_tokenizer
from tests.engine.runner.child_runner import TIMEOUT_SECONDS, fake_config, submit

LETTERS = Constraint("regex", "[a-z]+")


@dataclass
class Setup:
    """A dispatcher over the fake backend; `gate` lets it build the tokenizer for constraints."""

    dispatcher: Dispatcher
    command_queue: CommandQueue
    front: socket.socket  # the other end of the report writer's connection
    input_processor: InputProcessor
    gate: threading.Event
    building: threading.Event

    def take_commands(self, count: int) -> list[LoopCommand]:
        """Wait for the next `count` commands."""
        commands: list[LoopCommand] = []
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while len(commands) < count and time.monotonic() < deadline:
            self.command_queue.wait(0.1)
            commands += self.command_queue.take()
        return commands


@pytest.fixture
def unopened() -> Iterator[Setup]:
    """The state before the model is loaded."""
    backend = open_backend(fake_config(), lambda _: None)
    vocabulary = backend.vocabulary
    gate, building = threading.Event(), threading.Event()

    def tokenizer() -> llguidance.LLTokenizer:
        building.set()
        assert gate.wait(TIMEOUT_SECONDS)
        pieces = [vocabulary.piece(token) for token in range(vocabulary.size)]
        return build_tokenizer(pieces, ends=vocabulary.end_tokens)

    input_processor = InputProcessor(vocabulary, ConstraintCompiler(tokenizer), context_length=64)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command_queue, report_writer = CommandQueue(), ReportWriter(ours)
        dispatcher = Dispatcher(command_queue, report_writer, max_queued=2)
        yield Setup(dispatcher, command_queue, theirs, input_processor, gate, building)
        gate.set()
        dispatcher.close()
        report_writer.close(TIMEOUT_SECONDS)
        backend.close()


@pytest.fixture
def opened(unopened: Setup) -> Setup:
    unopened.dispatcher.open(unopened.input_processor)
    return unopened


def to_ids(commands: list[LoopCommand]) -> list[object]:
    """The ids of prepared requests; other commands as they are."""
    return [
        command.request.id if isinstance(command, PreparedRequest) else command
        for command in commands
    ]


def submit_constrained(id_: int) -> Submit:
    return submit(id_, "hello", constraint=LETTERS)


def test_a_request_without_a_constraint_overtakes_a_constrained_one(opened: Setup) -> None:
    opened.dispatcher.dispatch(submit_constrained(1))
    opened.dispatcher.dispatch(submit_constrained(2))
    opened.dispatcher.dispatch(submit(3, "hello"))

    assert to_ids(opened.command_queue.take()) == [3]
    opened.gate.set()
    assert to_ids(opened.take_commands(2)) == [1, 2]


def test_a_cancel_is_queued_at_once_and_again_behind_requests_in_preparation(opened: Setup) -> None:
    cancel = Cancel((1, 2))
    opened.dispatcher.dispatch(submit(1, "hello"))
    opened.dispatcher.dispatch(submit_constrained(2))
    opened.dispatcher.dispatch(cancel)

    assert to_ids(opened.command_queue.take()) == [1, cancel]
    opened.gate.set()
    assert to_ids(opened.take_commands(2)) == [2, cancel]


def test_a_stop_is_queued_behind_requests_in_preparation(opened: Setup) -> None:
    stop = Stop(drain_seconds=1.0)
    opened.dispatcher.dispatch(submit_constrained(1))
    opened.dispatcher.dispatch(stop)

    assert opened.command_queue.take() == []
    opened.gate.set()
    assert to_ids(opened.take_commands(2)) == [1, stop]


def test_a_constrained_request_beyond_max_queued_fails_as_busy(opened: Setup) -> None:
    for id_ in (1, 2, 3):
        opened.dispatcher.dispatch(submit_constrained(id_))
    opened.dispatcher.dispatch(submit(4, "hello"))

    frame = opened.front.recv(1 << 16)
    report = messages.report_decoder.decode(frame[messages.HEADER.size :])
    assert isinstance(report, messages.StepReport)
    (failed,) = report.events
    assert isinstance(failed, messages.Failed)
    assert (failed.id, failed.error["code"]) == (3, "engine_busy")
    opened.gate.set()
    assert to_ids(opened.take_commands(3)) == [4, 1, 2]


def test_the_deadline_counts_while_other_requests_are_prepared(opened: Setup) -> None:
    opened.dispatcher.dispatch(submit_constrained(1))
    opened.dispatcher.dispatch(submit(2, "hello", constraint=LETTERS, deadline_seconds=5.0))
    sent = time.monotonic()
    opened.gate.set()

    _, second = opened.take_commands(2)
    assert isinstance(second, PreparedRequest)
    assert second.request.deadline is not None
    assert second.request.deadline <= sent + 5


@pytest.mark.parametrize("command", [Cancel((1,)), Stop(drain_seconds=1.0)])
def test_a_command_is_queued_once_when_no_request_is_in_preparation(
    opened: Setup, command: Cancel | Stop
) -> None:
    opened.dispatcher.dispatch(command)

    assert opened.command_queue.take() == [command]


def test_close_waits_for_the_request_in_preparation(opened: Setup) -> None:
    opened.dispatcher.dispatch(submit_constrained(1))
    assert opened.building.wait(TIMEOUT_SECONDS)
    closing = threading.Thread(target=opened.dispatcher.close)
    closing.start()
    assert opened.command_queue.take() == []
    opened.gate.set()
    closing.join(TIMEOUT_SECONDS)

    assert not closing.is_alive()
    assert to_ids(opened.command_queue.take()) == [1]


@pytest.mark.parametrize(
    "late",
    [
        lambda: submit(2, "hello"),
        lambda: submit_constrained(2),
        lambda: Tokenize(3, submit(0, "hello").pieces or (), add_special=False),
    ],
)
def test_commands_after_close_are_ignored(opened: Setup, late: Callable[[], Submit]) -> None:
    opened.dispatcher.close()
    opened.dispatcher.dispatch(late())

    assert opened.command_queue.take() == []


def test_a_second_start_is_an_error(opened: Setup) -> None:
    with pytest.raises(ValueError, match="once"):
        opened.dispatcher.dispatch(Start(fake_config()))


def test_a_request_waits_until_the_model_is_loaded(unopened: Setup) -> None:
    hello = submit(1, "hello")
    reading = threading.Thread(target=unopened.dispatcher.dispatch, args=(hello,), daemon=True)
    reading.start()
    unopened.dispatcher.dispatch(Cancel((9,)))
    assert unopened.command_queue.take() == [Cancel((9,))]

    unopened.dispatcher.open(unopened.input_processor)
    reading.join(TIMEOUT_SECONDS)
    assert to_ids(unopened.command_queue.take()) == [1]
