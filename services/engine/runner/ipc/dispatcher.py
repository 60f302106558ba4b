"""Dispatch commands from the front: prepare them for the loop, or answer them directly."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from services.engine.messages import Cancel, Command, Failed, Start, Stop, Submit, Tokenize
from services.engine.runner.ipc.command_queue import CommandQueue
from services.engine.runner.ipc.report_writer import ReportWriter
from services.engine.runner.requests.input_processor import InputProcessor
from services.shared.errors import EngineBusy, SpindllError, to_wire


class Dispatcher:
    """Handles commands on the reading thread; those that need the model wait until it is loaded.

    Requests with a constraint are prepared one after the other on a separate thread, because the
    first constraint of a model takes up to a second, and other requests pass it meanwhile. Running
    answers still pause once, for 0.5 s with 152k tokens: llguidance holds the interpreter's lock
    while it builds its tokenizer. At most `max_queued` requests may be in preparation; further ones
    fail with EngineBusy.
    """

    def __init__(
        self, command_queue: CommandQueue, report_writer: ReportWriter, *, max_queued: int
    ) -> None:
        self._command_queue = command_queue
        self._report_writer = report_writer
        self._max_queued = max_queued
        self._input_processor: InputProcessor | None = None
        self._opened = threading.Event()
        self._in_use = threading.Lock()  # held while the reading thread handles a command
        self._constraint_executor = ThreadPoolExecutor(1, thread_name_prefix="constraints")
        self._in_preparation: set[int] = set()  # request ids on that thread, until they are queued

    def open(self, input_processor: InputProcessor) -> None:
        """The model is loaded: accept requests."""
        self._input_processor = input_processor
        self._opened.set()

    def close(self) -> None:
        """Stop accepting requests; returns when no thread reads the model's vocabulary any more."""
        with self._in_use:
            self._input_processor = None
            self._constraint_executor.shutdown(cancel_futures=True)
            self._in_preparation.clear()

    def dispatch(self, command: Command) -> None:
        """Pass the command on to the loop, or handle it here."""
        if isinstance(command, Start):
            raise ValueError("a runner loads one model, once")
        if isinstance(command, Submit | Tokenize):
            self._opened.wait()
        with self._in_use:
            if isinstance(command, Cancel | Stop):
                self._forward(command)
            elif self._input_processor is None:
                return  # the process is ending
            elif isinstance(command, Tokenize):
                self._report_writer.send(self._input_processor.tokenize(command))
            else:
                self._submit(self._input_processor, command)

    def _submit(self, input_processor: InputProcessor, submit: Submit) -> None:
        arrived_at = time.monotonic()
        if submit.constraint is None:
            self._prepare(input_processor, submit, arrived_at)
        elif len(self._in_preparation) < self._max_queued:
            self._in_preparation.add(submit.id)
            self._constraint_executor.submit(self._prepare, input_processor, submit, arrived_at)
        else:
            self._fail(submit, EngineBusy("too many requests are waiting already, try again later"))

    def _prepare(self, input_processor: InputProcessor, submit: Submit, arrived_at: float) -> None:
        try:
            self._command_queue.put(input_processor.prepare(submit, arrived_at=arrived_at))
        except SpindllError as error:
            self._fail(submit, error)
        self._in_preparation.discard(submit.id)

    def _fail(self, submit: Submit, error: SpindllError) -> None:
        self._report_writer.post([Failed(submit.id, to_wire(error))])

    def _forward(self, command: Cancel | Stop) -> None:
        """Queue a command for the loop, behind the requests that are still in preparation.

        A Cancel is queued twice while requests are in preparation: at once, for those that run
        already, and again behind the prepared ones. A Stop is queued once, behind them.
        """
        is_preparing = bool(self._in_preparation)
        if is_preparing:
            self._constraint_executor.submit(self._command_queue.put, command)
        if isinstance(command, Cancel) or not is_preparing:
            self._command_queue.put(command)
