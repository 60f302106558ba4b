"""The requests that one model's runner has, by the ids they have there.

    submit   ──► events of its steps ──► the last event, or fail_all
    tokenize ──► Tokenized                             or fail_all

The runner itself belongs to the model, which passes it to the methods that send a command. Event
loop only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from services.engine import messages
from services.engine.core import TextPiece
from services.engine.front.models.client_request import ClientRequest
from services.engine.front.process.launcher import RunnerHandle
from services.shared.errors import SpindllError, from_wire


class RunnerRequests:
    """See the module."""

    def __init__(self) -> None:
        self._running: dict[int, ClientRequest] = {}
        self._tokenizing: dict[int, asyncio.Future[tuple[int, ...]]] = {}
        self._idle: asyncio.Future[None] | None = None
        self._last_id = 1

    @property
    def running_count(self) -> int:
        """The requests that have not ended; texts to tokenize are not among them."""
        return len(self._running)

    @property
    def is_empty(self) -> bool:
        """Whether the runner has neither a request nor a text to tokenize."""
        return not (self._running or self._tokenizing)

    def submit(self, runner: RunnerHandle, request: ClientRequest, now: float) -> None:
        """Give a request to the runner."""
        runner_id = self._new_id()
        self._running[runner_id] = request
        runner.send(request.build_submit(runner_id, now))

    def cancel(self, runner: RunnerHandle, request: ClientRequest) -> None:
        """Stop a request within a step, if the runner has it."""
        if request.runner_id in self._running:
            runner.send(messages.Cancel((request.runner_id,)))

    def fail_all(self, runner: RunnerHandle | None, error: SpindllError) -> int:
        """End all with an error; how many requests were running. `runner` is None if it ended."""
        running, self._running = self._running, {}
        self._wake_idle_waiters()
        if running and runner is not None:
            runner.send(messages.Cancel(tuple(running)))
        for request in running.values():
            request.fail(error)
        tokenizing, self._tokenizing = self._tokenizing, {}
        for result in tokenizing.values():
            if not result.done():
                result.set_exception(error)
        return len(running)

    async def tokenize(
        self, runner: RunnerHandle, pieces: Sequence[TextPiece], *, add_special: bool
    ) -> tuple[int, ...]:
        """The token ids of a text, from the runner. InvalidRequest, or the error of `fail_all`."""
        runner_id = self._new_id()
        result: asyncio.Future[tuple[int, ...]] = asyncio.get_running_loop().create_future()
        self._tokenizing[runner_id] = result
        runner.send(messages.Tokenize(runner_id, tuple(pieces), add_special))
        try:
            return await result
        finally:
            self._tokenizing.pop(runner_id, None)

    async def wait_until_idle(self) -> None:
        """Wait until no request is running."""
        while self._running:
            if self._idle is None or self._idle.done():
                self._idle = asyncio.get_running_loop().create_future()
            # Shared by all callers: one that stops waiting must not cancel it for the others.
            await asyncio.shield(self._idle)

    def on_step(self, events: Sequence[messages.RequestEvent]) -> bool:
        """Pass the events of a step to their requests; whether a request ended. The hot path."""
        has_ended = False
        running = self._running
        for event in events:
            request = running.get(event.id)
            if request is None:
                continue
            request.on_event(event)
            if request.has_ended:
                del running[event.id]
                has_ended = True
        if has_ended and not running:
            self._wake_idle_waiters()
        return has_ended

    def on_tokenized(self, report: messages.Tokenized) -> None:
        """Give the ids of a text, or its error, to the caller that waits for them."""
        result = self._tokenizing.get(report.id)
        if result is None or result.done():
            return
        if report.error is not None:
            result.set_exception(from_wire(report.error))
        else:
            result.set_result(report.ids)

    def _wake_idle_waiters(self) -> None:
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def _new_id(self) -> int:
        self._last_id += 1
        return self._last_id
