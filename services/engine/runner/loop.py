"""The loop of a runner: take commands, let the batcher compute a step, report.

EngineLoop runs on the thread that opened the batcher, and is the only one that calls it. All work
that can wait is done on other threads (`ipc`).
"""

from __future__ import annotations

import logging
import time

from services.engine.messages.commands import Cancel, Stop
from services.engine.messages.reports import Heartbeat
from services.engine.runner.batcher import Batcher, BatcherState
from services.engine.runner.embedding.embedding_processor import PreparedEmbedding
from services.engine.runner.embedding.embeddings import Embeddings
from services.engine.runner.errors import build_unloading_error
from services.engine.runner.ipc.command_queue import CommandQueue, Hangup
from services.engine.runner.ipc.report_writer import ReportWriter
from services.engine.runner.requests.input_processor import PreparedRequest
from services.engine.runner.requests.output_processor import OutputProcessor
from services.shared.errors import SpindllError

logger = logging.getLogger(__name__)

_MAX_FAILURES = 3  # failed steps in a row; a new process is then more likely to work


class EngineLoop:
    """Runs until the front hangs up or sends Stop, or until the batcher fails repeatedly.

    Each turn computes one step of the answers and one batch of the embeddings, where there are any.
    """

    def __init__(
        self,
        batcher: Batcher,
        command_queue: CommandQueue,
        report_writer: ReportWriter,
        *,
        max_queued: int = 256,
    ) -> None:
        """`max_queued`: requests for embeddings; the batcher has a limit of its own."""
        self._batcher = batcher
        self._command_queue = command_queue
        self._report_writer = report_writer
        self._output_processor = OutputProcessor(batcher.counters)
        self._embeddings = Embeddings(
            batcher.pooled, batcher.counters, report_writer.send, max_queued=max_queued
        )
        # The heartbeat thread reads these two.
        self._busy_since: float | None = None
        self._state = BatcherState()
        self._stop_at: float | None = None

    def run(self) -> int:
        """Run until the end; returns the exit status of the process."""
        while True:
            for command in self._command_queue.take():
                if isinstance(command, Hangup):
                    return 0
                self._handle(command)
            self._state = self._batcher.read_state()
            if self._stop_at is not None and self._is_drained(self._stop_at):
                self._refuse_all()
                return 0
            failed_steps = max(self._state.failed_steps, self._embeddings.failed_steps)
            if failed_steps >= _MAX_FAILURES:
                logger.error("too many failed steps", extra={"failed_steps": _MAX_FAILURES})
                return 1
            if not self._state.is_idle:
                self._step()
            self._report_writer.post(self._output_processor.take_events())
            if not self._embeddings.is_idle:
                self._embed()
            elif self._state.is_idle:
                self._command_queue.wait()

    def build_heartbeat(self) -> Heartbeat:
        """The state of the loop as of its last step. Any thread may call this."""
        since, state = self._busy_since, self._state
        return Heartbeat(
            busy_seconds=0.0 if since is None else time.monotonic() - since,
            running=state.running,
            queued=state.queued + self._embeddings.queued,
            cells_used=state.cells_used,
            counters=self._batcher.counters,
        )

    def _handle(self, command: PreparedRequest | PreparedEmbedding | Cancel | Stop) -> None:
        match command:
            case PreparedRequest():
                self._add(command)
            case PreparedEmbedding():
                self._embeddings.add(command, is_stopping=self._stop_at is not None)
            case Cancel():
                for id_ in command.ids:
                    self._embeddings.cancel(id_)
                    self._output_processor.cancel(self._batcher.cancel(id_), time.monotonic())
            case Stop():
                self._stop_at = time.monotonic() + command.drain_seconds

    def _add(self, prepared: PreparedRequest) -> None:
        self._output_processor.add(prepared)
        try:
            if self._stop_at is not None:
                raise build_unloading_error()
            self._batcher.add(prepared.request)
        except SpindllError as error:
            self._output_processor.fail(prepared.request.id, error)

    def _step(self) -> None:
        """Let the batcher compute a step; the front watches how long that takes."""
        began_at = self._busy_since = time.monotonic()
        events = self._batcher.step(began_at)
        self._output_processor.process(events, began_at=began_at, ended_at=time.monotonic())
        self._busy_since = None

    def _embed(self) -> None:
        """Compute one batch of embeddings; the front watches how long that takes."""
        self._busy_since = time.monotonic()
        self._embeddings.step(is_alone=self._state.is_idle)
        self._busy_since = None

    def _is_drained(self, stop_at: float) -> bool:
        is_idle = self._state.is_idle and self._embeddings.is_idle
        return is_idle or time.monotonic() >= stop_at

    def _refuse_all(self) -> None:
        """Fail the requests that did not finish within the drain time."""
        for id_ in self._output_processor.ids:
            self._batcher.cancel(id_)
            self._output_processor.fail(id_, build_unloading_error())
        self._embeddings.refuse_all()
        self._report_writer.post(self._output_processor.take_events())
