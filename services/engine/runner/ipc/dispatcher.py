"""Where commands from the front arrive: prepared for the loop, or answered on the spot."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from services.engine.messages import Cancel, Command, Failed, Start, Stop, Submit, Tokenize
from services.engine.runner.ipc.command_queue import Inbox
from services.engine.runner.ipc.report_writer import Outbox
from services.engine.runner.requests.input_processor import Intake
from services.shared.errors import EngineBusy, SpindllError, to_wire


class Desk:
    """Accepts commands on the reading thread; those that need the model wait until it is loaded.

    Requests with a constraint are prepared on a thread of their own, one after the other: the first
    one of a model takes up to a second, and none of them may keep the others waiting. At most
    `most_waiting` may be there; one more is told that the engine is busy.
    """

    def __init__(self, inbox: Inbox, outbox: Outbox, *, most_waiting: int) -> None:
        self._inbox = inbox
        self._outbox = outbox
        self._most_waiting = most_waiting
        self._intake: Intake | None = None
        self._opened = threading.Event()
        self._in_use = threading.Lock()  # held while the reading thread is at it
        self._constrained = ThreadPoolExecutor(1, thread_name_prefix="constraints")
        self._under_way: set[int] = set()  # ids over there, until they are in the inbox

    def open(self, intake: Intake) -> None:
        """The model is loaded."""
        self._intake = intake
        self._opened.set()

    def close(self) -> None:
        """The model goes: returns when nobody reads its vocabulary any more."""
        with self._in_use:
            self._intake = None
            self._constrained.shutdown(cancel_futures=True)
            self._under_way.clear()

    def accept(self, command: Command) -> None:
        """Hand the command to the loop, or deal with it here."""
        if isinstance(command, Start):
            raise ValueError("a runner loads one model, once")
        if isinstance(command, Submit | Tokenize):
            self._opened.wait()
        with self._in_use:
            if isinstance(command, Cancel | Stop):
                self._pass(command)
            elif self._intake is None:
                return  # the process is ending
            elif isinstance(command, Tokenize):
                self._outbox.send(self._intake.tokenize(command))
            else:
                self._submit(self._intake, command)

    def _submit(self, intake: Intake, submit: Submit) -> None:
        arrived = time.monotonic()
        if submit.constraint is None:
            self._prepare(intake, submit, arrived)
        elif len(self._under_way) < self._most_waiting:
            self._under_way.add(submit.id)
            self._constrained.submit(self._prepare, intake, submit, arrived)
        else:
            self._fail(submit, EngineBusy("too many requests are waiting already, try again later"))

    def _prepare(self, intake: Intake, submit: Submit, arrived: float) -> None:
        try:
            self._inbox.put(intake.prepare(submit, arrived=arrived))
        except SpindllError as error:
            self._fail(submit, error)
        self._under_way.discard(submit.id)

    def _fail(self, submit: Submit, error: SpindllError) -> None:
        self._outbox.post([Failed(submit.id, to_wire(error))])

    def _pass(self, command: Cancel | Stop) -> None:
        """To the loop; while requests are on their way there, behind them: a cancel now and then."""
        are_under_way = bool(self._under_way)
        if are_under_way:
            self._constrained.submit(self._inbox.put, command)
        if isinstance(command, Cancel) or not are_under_way:
            self._inbox.put(command)
