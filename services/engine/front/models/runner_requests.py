"""The requests that one model's runner has, by the ids they have there.

    submit   ──► events of its steps ──► the last event, or fail_all
    tokenize ──► Tokenized                             or fail_all
    detokenize ► Detokenized                           or fail_all
    embed    ──► Embedded                              or fail_all
    locate   ──► Located                               or fail_all

The runner itself belongs to the model, which passes it to the methods that send a command. Event
loop only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from services.engine.core import TextPiece
from services.engine.front.models.client_request import ClientRequest
from services.engine.front.process.launcher import RunnerHandle
from services.engine.messages import commands, reports
from services.shared.errors import SpindllError, from_wire

Reply = reports.Tokenized | reports.Detokenized | reports.Located | reports.Embedded


class RunnerRequests:
    """See the module."""

    def __init__(self) -> None:
        self._running: dict[int, ClientRequest] = {}
        self._embedding: dict[int, asyncio.Future[Any]] = {}
        self._asking: dict[int, asyncio.Future[Any]] = {}  # for another reply, which takes no step
        self._idle: asyncio.Future[None] | None = None
        self._last_id = 1

    @property
    def running_count(self) -> int:
        """The requests that have not ended; texts to tokenize are not among them."""
        return len(self._running) + len(self._embedding)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits for the runner."""
        return not (self.running_count or self._asking)

    def submit(self, runner: RunnerHandle, request: ClientRequest, now: float) -> None:
        """Give a request to the runner."""
        runner_id = self._new_id()
        self._running[runner_id] = request
        runner.send(request.build_submit(runner_id, now))

    def cancel(self, runner: RunnerHandle, request: ClientRequest) -> None:
        """Stop a request within a step, if the runner has it."""
        if request.runner_id in self._running:
            runner.send(commands.Cancel((request.runner_id,)))

    def fail_all(self, runner: RunnerHandle | None, error: SpindllError) -> int:
        """End all with an error; how many requests were running. `runner` is None if it ended."""
        running, self._running = self._running, {}
        embedding, self._embedding = self._embedding, {}
        asking, self._asking = self._asking, {}
        self._wake_idle_waiters()
        if (running or embedding) and runner is not None:
            runner.send(commands.Cancel((*running, *embedding)))
        for request in running.values():
            request.fail(error)
        for reply in (*embedding.values(), *asking.values()):
            if not reply.done():
                reply.set_exception(error)
        return len(running) + len(embedding)

    async def tokenize(
        self,
        runner: RunnerHandle,
        pieces: Sequence[TextPiece],
        *,
        add_special: bool,
        principal: str,
    ) -> tuple[int, ...]:
        """The token ids of a text, from the runner. InvalidRequest, or the error of `fail_all`."""
        runner_id = self._new_id()
        command = commands.Tokenize(runner_id, tuple(pieces), add_special, principal)
        reply: reports.Tokenized = await _ask(runner, command, self._asking)
        return reply.ids

    async def detokenize(
        self, runner: RunnerHandle, tokens: Sequence[int], *, principal: str
    ) -> str:
        """The text of tokens, from the runner. InvalidRequest, or the error of `fail_all`."""
        command = commands.Detokenize(self._new_id(), tuple(tokens), principal)
        reply: reports.Detokenized = await _ask(runner, command, self._asking)
        return reply.text

    async def locate(self, runner: RunnerHandle, command: commands.Locate) -> reports.Located:
        """What is stored of a prompt; sets the id of the command. As `tokenize`."""
        command = msgspec.structs.replace(command, id=self._new_id())
        reply: reports.Located = await _ask(runner, command, self._asking)
        return reply

    async def embed(self, runner: RunnerHandle, command: commands.Embed) -> reports.Embedded:
        """The vectors of texts, from the runner; sets the id of the command.

        InvalidRequest, ContextLengthExceeded, EngineBusy, InsufficientMemory, or the error of
        `fail_all`. Cancelling the caller stops the work.
        """
        command = msgspec.structs.replace(command, id=self._new_id())
        try:
            reply: reports.Embedded = await _ask(runner, command, self._embedding)
            return reply
        except asyncio.CancelledError:
            runner.send(commands.Cancel((command.id,)))
            raise
        finally:
            self._wake_idle_waiters()

    async def wait_until_idle(self) -> None:
        """Wait until no request is running."""
        while self.running_count:
            if self._idle is None or self._idle.done():
                self._idle = asyncio.get_running_loop().create_future()
            # Shared by all callers: one that stops waiting must not cancel it for the others.
            await asyncio.shield(self._idle)

    def on_step(self, events: Sequence[reports.RequestEvent]) -> bool:
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
        if has_ended:
            self._wake_idle_waiters()
        return has_ended

    def on_reply(self, report: Reply) -> None:
        """Give what was asked for, or the error, to the caller that waits for it."""
        result = self._asking.get(report.id) or self._embedding.get(report.id)
        if result is None or result.done():
            return
        if report.error is not None:
            result.set_exception(from_wire(report.error))
        else:
            result.set_result(report)

    def _wake_idle_waiters(self) -> None:
        is_idle = not self.running_count
        if is_idle and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def _new_id(self) -> int:
        self._last_id += 1
        return self._last_id


async def _ask(
    runner: RunnerHandle,
    command: commands.Tokenize | commands.Detokenize | commands.Locate | commands.Embed,
    waiting: dict[int, asyncio.Future[Any]],
) -> Any:
    """Send a command that is answered by one report."""
    result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    waiting[command.id] = result
    runner.send(command)
    try:
        return await result
    finally:
        waiting.pop(command.id, None)
