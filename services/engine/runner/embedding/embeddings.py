"""The embeddings of a loop: the requests it has, and the reports about them."""

from __future__ import annotations

from collections.abc import Callable

from services.engine.backends.pooling import PooledContext, PooledModel
from services.engine.core import Counters
from services.engine.messages import commands, reports
from services.engine.runner.embedding.embedding_batcher import EmbeddingBatcher, EmbeddingFinished
from services.engine.runner.embedding.embedding_processor import PreparedEmbedding, build_report
from services.engine.runner.errors import build_unloading_error
from services.shared.errors import SpindllError, to_wire


class Embeddings:
    """See the module. The loop is the only one that calls it."""

    def __init__(
        self,
        model: PooledModel | None,
        counters: Counters,
        send: Callable[[reports.Embedded | reports.MemoryAdded], None],
        *,
        max_queued: int,
    ) -> None:
        """`model`: None where the backend computes none. `send` takes the reports."""
        self._model = model
        self._send = send
        self._commands: dict[int, commands.Embed] = {}
        self._batcher = (
            None
            if model is None
            else EmbeddingBatcher(
                model, counters, max_queued=max_queued, on_opened=self._report_memory
            )
        )

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to compute."""
        return self._batcher is None or self._batcher.is_idle

    @property
    def queued(self) -> int:
        """The requests that have not ended. Any thread may read it."""
        return len(self._commands)

    @property
    def failed_steps(self) -> int:
        """Batches that failed, in a row."""
        return 0 if self._batcher is None else self._batcher.failed_steps

    def add(self, prepared: PreparedEmbedding, *, is_stopping: bool) -> None:
        """Queue a request, or report why not."""
        command = prepared.command
        try:
            if is_stopping or self._batcher is None:
                raise build_unloading_error()
            self._batcher.add(prepared.request)
        except SpindllError as error:
            self._fail(command.id, error)
        else:
            self._commands[command.id] = command

    def cancel(self, request_id: int) -> None:
        """Forget a request. An unknown id is fine."""
        if self._batcher is not None and self._commands.pop(request_id, None) is not None:
            self._batcher.cancel(request_id)

    def step(self, *, is_alone: bool) -> None:
        """Compute one batch, and report the requests that it ended. Only while it is not idle.

        `is_alone`: no answer waits for the end of the batch.
        """
        assert self._batcher is not None
        assert self._model is not None
        for event in self._batcher.step(is_alone=is_alone):
            command = self._commands.pop(event.request.id)
            if isinstance(event, EmbeddingFinished):
                report = build_report(command, event.request, event.rows, self._model.facts)
                self._send(report)
            else:
                self._fail(command.id, event.error)

    def refuse_all(self) -> None:
        """Fail the requests that did not finish within the drain time."""
        for id_ in list(self._commands):
            self.cancel(id_)
            self._fail(id_, build_unloading_error())

    def _fail(self, request_id: int, error: SpindllError) -> None:
        self._send(reports.Embedded(request_id, error=to_wire(error)))

    def _report_memory(self, context: PooledContext) -> None:
        self._send(reports.MemoryAdded(dict(context.pool_bytes)))
