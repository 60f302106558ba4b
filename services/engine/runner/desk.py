"""Where commands from the front arrive: prepared for the loop, or answered on the spot."""

from __future__ import annotations

import threading

from services.engine.runner.inbox import Order
from services.engine.runner.intake import Intake
from services.engine.runner.outbox import Outbox
from services.engine.runner.wire import Cancel, Command, Failed, Start, Stop, Submit, Tokenize
from services.shared.errors import SpindllError, to_wire


class Desk:
    """Accepts commands on the reading thread; those that need the model wait until it is loaded."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._intake: Intake | None = None
        self._opened = threading.Event()
        self._in_use = threading.Lock()  # held while the vocabulary is read; guards its end

    def open(self, intake: Intake) -> None:
        """The model is loaded."""
        self._intake = intake
        self._opened.set()

    def close(self) -> None:
        """The model goes: returns when nobody reads its vocabulary any more."""
        with self._in_use:
            self._intake = None

    def accept(self, command: Command) -> Order | None:
        """The order for the loop; None if the command was dealt with here."""
        match command:
            case Submit():
                return self._submit(command)
            case Tokenize():
                self._tokenize(command)
                return None
            case Cancel() | Stop():
                return command
            case Start():
                raise ValueError("a runner loads one model, once")

    def _submit(self, submit: Submit) -> Order | None:
        self._opened.wait()
        with self._in_use:
            if self._intake is None:
                return None  # the process is ending
            try:
                return self._intake.prepare(submit)
            except SpindllError as error:
                self._outbox.post([Failed(submit.id, to_wire(error))])
                return None

    def _tokenize(self, command: Tokenize) -> None:
        self._opened.wait()
        with self._in_use:
            if self._intake is not None:
                self._outbox.send(self._intake.tokenize(command))
