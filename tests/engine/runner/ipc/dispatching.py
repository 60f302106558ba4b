"""A dispatcher over a backend that takes as long as a test wants."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from services.engine.backends.base import Vocabulary
from services.engine.core import Constraint, TextPiece
from services.engine.messages.commands import (
    Submit,
)
from services.engine.messages.frames import HEADER, report_decoder
from services.engine.messages.reports import (
    Report,
    RequestEvent,
    StepReport,
)
from services.engine.runner.ipc.command_queue import CommandQueue, LoopCommand
from services.engine.runner.ipc.dispatcher import Dispatcher
from services.engine.runner.ipc.report_writer import ReportWriter
from services.engine.runner.requests.input_processor import InputProcessor, PreparedRequest
from tests.engine.runner.child_runner import TIMEOUT_SECONDS, submit

LETTERS = Constraint("regex", "[a-z]+")


@dataclass
class Setup:
    """A dispatcher over the fake backend.

    `gate` lets it build the tokenizer for constraints, tokenize long texts and read all tokens.
    """

    dispatcher: Dispatcher
    command_queue: CommandQueue
    front: socket.socket  # the other end of the report writer's connection
    input_processor: InputProcessor
    gate: threading.Event
    building: threading.Event

    def take_events(self) -> list[RequestEvent]:
        """Wait for the next frame with events."""
        frame = self.front.recv(1 << 16)
        report = report_decoder.decode(frame[HEADER.size :])
        assert isinstance(report, StepReport)
        return report.events

    def take_report(self) -> Report:
        """Wait for the next frame."""
        size = HEADER.unpack(self.front.recv(HEADER.size, socket.MSG_WAITALL))[0]
        return report_decoder.decode(self.front.recv(size, socket.MSG_WAITALL))

    def take_commands(self, count: int) -> list[LoopCommand]:
        """Wait for the next `count` commands."""
        commands: list[LoopCommand] = []
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while len(commands) < count and time.monotonic() < deadline:
            self.command_queue.wait(0.1)
            commands += self.command_queue.take()
        return commands


class SlowVocabulary:
    """A vocabulary that waits for the gate where the real one takes long."""

    def __init__(self, vocabulary: Vocabulary, gate: threading.Event) -> None:
        self._vocabulary = vocabulary
        self._gate = gate
        self.size = vocabulary.size
        self.end_tokens = vocabulary.end_tokens
        self.native = None
        self.control_tokens = ()
        self.infill_tokens = (0, 1, 2)

    def tokenize(self, pieces: Sequence[TextPiece], *, add_special: bool) -> list[int]:
        if sum(len(piece.text) for piece in pieces) > 1000:
            assert self._gate.wait(TIMEOUT_SECONDS)
        return self._vocabulary.tokenize(pieces, add_special=add_special)

    def piece(self, token: int) -> bytes:
        assert self._gate.wait(TIMEOUT_SECONDS)
        return self._vocabulary.piece(token)

    def read_piece(self, token: int) -> bytes:
        return self._vocabulary.read_piece(token)


def to_ids(commands: list[LoopCommand]) -> list[object]:
    """The ids of prepared requests; other commands as they are."""
    return [
        command.request.id if isinstance(command, PreparedRequest) else command
        for command in commands
    ]


def submit_constrained(id_: int, **fields: Any) -> Submit:
    return submit(id_, "hello", constraint=LETTERS, **fields)


@contextlib.contextmanager
def one_thread(setup: Setup) -> Iterator[Dispatcher]:
    """A dispatcher that prepares one request at a time."""
    report_writer = ReportWriter(setup.front)
    dispatcher = Dispatcher(setup.command_queue, report_writer, max_queued=9, threads=1)
    dispatcher.open(setup.input_processor)
    yield dispatcher
    setup.gate.set()
    dispatcher.close()
