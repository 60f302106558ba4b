"""Requests with a constraint keep nobody waiting, and nothing overtakes them that must not."""

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

HELD = Constraint("regex", "[a-z]+")


@dataclass
class Counter:
    """A desk over the fake backend, whose tokenizer for constraints is made when `gate` opens."""

    dispatcher: Dispatcher
    command_queue: CommandQueue
    front: socket.socket  # the other end of its outbox
    input_processor: InputProcessor
    gate: threading.Event
    making: threading.Event

    def taken(self, count: int) -> list[LoopCommand]:
        """The next orders, as soon as there are so many."""
        commands: list[LoopCommand] = []
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while len(commands) < count and time.monotonic() < deadline:
            self.command_queue.wait(0.1)
            commands += self.command_queue.take()
        return commands


@pytest.fixture
def early() -> Iterator[Counter]:
    """Before the model is loaded."""
    backend = open_backend(fake_config(), lambda _: None)
    vocabulary = backend.vocabulary
    gate, making = threading.Event(), threading.Event()

    def tokenizer() -> llguidance.LLTokenizer:
        making.set()
        assert gate.wait(TIMEOUT_SECONDS)
        pieces = [vocabulary.piece(token) for token in range(vocabulary.size)]
        return build_tokenizer(pieces, ends=vocabulary.end_tokens)

    input_processor = InputProcessor(
        vocabulary, ConstraintCompiler(tokenizer), context_length=64, speculate=False
    )
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command_queue, report_writer = CommandQueue(), ReportWriter(ours)
        dispatcher = Dispatcher(command_queue, report_writer, max_queued=2)
        yield Counter(dispatcher, command_queue, theirs, input_processor, gate, making)
        gate.set()
        dispatcher.close()
        report_writer.close(TIMEOUT_SECONDS)
        backend.close()


@pytest.fixture
def counter(early: Counter) -> Counter:
    early.dispatcher.open(early.input_processor)
    return early


def shown(commands: list[LoopCommand]) -> list[object]:
    """Arrivals by their id."""
    return [
        command.request.id if isinstance(command, PreparedRequest) else command
        for command in commands
    ]


def constrained(id_: int) -> Submit:
    return submit(id_, "hello", constraint=HELD)


def test_a_request_without_a_constraint_overtakes_one_with(counter: Counter) -> None:
    counter.dispatcher.dispatch(constrained(1))
    counter.dispatcher.dispatch(constrained(2))
    counter.dispatcher.dispatch(submit(3, "hello"))

    assert shown(counter.command_queue.take()) == [3]
    counter.gate.set()
    assert shown(counter.taken(2)) == [1, 2]


def test_a_cancel_reaches_the_running_now_and_the_coming_later(counter: Counter) -> None:
    cancel = Cancel((1, 2))
    counter.dispatcher.dispatch(submit(1, "hello"))
    counter.dispatcher.dispatch(constrained(2))
    counter.dispatcher.dispatch(cancel)

    assert shown(counter.command_queue.take()) == [1, cancel]
    counter.gate.set()
    assert shown(counter.taken(2)) == [2, cancel]


def test_a_stop_waits_for_what_came_before_it(counter: Counter) -> None:
    stop = Stop(drain_seconds=1.0)
    counter.dispatcher.dispatch(constrained(1))
    counter.dispatcher.dispatch(stop)

    assert counter.command_queue.take() == []
    counter.gate.set()
    assert shown(counter.taken(2)) == [1, stop]


def test_more_than_may_wait_are_sent_away_and_the_rest_are_not(counter: Counter) -> None:
    for id_ in (1, 2, 3):
        counter.dispatcher.dispatch(constrained(id_))
    counter.dispatcher.dispatch(submit(4, "hello"))

    frame = counter.front.recv(1 << 16)
    report = messages.report_decoder.decode(frame[messages.HEADER.size :])
    assert isinstance(report, messages.StepReport)
    (failed,) = report.events
    assert isinstance(failed, messages.Failed)
    assert (failed.id, failed.error["code"]) == (3, "engine_busy")
    counter.gate.set()
    assert shown(counter.taken(3)) == [4, 1, 2]


def test_the_deadline_runs_while_others_are_prepared(counter: Counter) -> None:
    counter.dispatcher.dispatch(constrained(1))
    counter.dispatcher.dispatch(submit(2, "hello", constraint=HELD, deadline_seconds=5.0))
    sent = time.monotonic()
    counter.gate.set()

    _, second = counter.taken(2)
    assert isinstance(second, PreparedRequest)
    assert second.request.deadline is not None
    assert second.request.deadline <= sent + 5


@pytest.mark.parametrize("command", [Cancel((1,)), Stop(drain_seconds=1.0)])
def test_with_nothing_under_way_a_command_goes_through_once(
    counter: Counter, command: Cancel | Stop
) -> None:
    counter.dispatcher.dispatch(command)

    assert counter.command_queue.take() == [command]


def test_close_waits_for_what_is_being_prepared(counter: Counter) -> None:
    counter.dispatcher.dispatch(constrained(1))
    assert counter.making.wait(TIMEOUT_SECONDS)
    closing = threading.Thread(target=counter.dispatcher.close)
    closing.start()
    assert counter.command_queue.take() == []
    counter.gate.set()
    closing.join(TIMEOUT_SECONDS)

    assert not closing.is_alive()
    assert shown(counter.command_queue.take()) == [1]


@pytest.mark.parametrize(
    "late",
    [
        lambda: submit(2, "hello"),
        lambda: constrained(2),
        lambda: Tokenize(3, submit(0, "hello").pieces or (), add_special=False),
    ],
)
def test_what_comes_after_the_end_is_left(counter: Counter, late: Callable[[], Submit]) -> None:
    counter.dispatcher.close()
    counter.dispatcher.dispatch(late())

    assert counter.command_queue.take() == []


def test_a_second_start_is_a_bug_of_the_front(counter: Counter) -> None:
    with pytest.raises(ValueError, match="once"):
        counter.dispatcher.dispatch(Start(fake_config()))


def test_what_needs_the_model_waits_until_it_is_loaded(early: Counter) -> None:
    hello = submit(1, "hello")
    reading = threading.Thread(target=early.dispatcher.dispatch, args=(hello,), daemon=True)
    reading.start()
    early.dispatcher.dispatch(Cancel((9,)))
    assert early.command_queue.take() == [Cancel((9,))]

    early.dispatcher.open(early.input_processor)
    reading.join(TIMEOUT_SECONDS)
    assert shown(early.command_queue.take()) == [1]
