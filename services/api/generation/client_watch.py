"""Watches the client of one HTTP request: whether it is connected, and when it last got a write."""

from __future__ import annotations

import asyncio

from starlette.types import Receive

from services.api.generation.answers.events import GenerationEvent, Started, Waiting
from services.api.generation.generation import Generation


class ClientWatch:
    """Follows one generation for one HTTP request. `stop()` must be called; twice is fine.

    A client that disconnects abandons the generation at once, streaming or not. After a silence of
    `silence_seconds` (the first time; later up to twice as long), the task that takes the events is
    woken. One timer checks for a write since its last run, so that a token needs no timer of its
    own.
    """

    def __init__(
        self, generation: Generation, receive: Receive, *, silence_seconds: float | None
    ) -> None:
        self._generation = generation
        self._receive = receive
        self._silence_seconds = silence_seconds
        self._has_written = False
        self._timer: asyncio.TimerHandle | None = None
        self._listener = asyncio.create_task(self._wait_for_disconnect(), name="client watch")
        self._start_timer()

    def note_write(self) -> None:
        """Record that something was sent: the silence restarts."""
        self._has_written = True

    def stop(self) -> None:
        """End the watch and close the generation, which cancels what is still running."""
        self._listener.cancel()
        if self._timer is not None:
            self._timer.cancel()
        self._generation.close()

    async def _wait_for_disconnect(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._generation.abandon()
                return

    def _start_timer(self) -> None:
        if self._silence_seconds is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._silence_seconds, self._check_silence)

    def _check_silence(self) -> None:
        if not self._has_written:
            self._generation.wake()
        self._has_written = False
        self._start_timer()


async def take_until_first_token(generation: Generation) -> list[GenerationEvent]:
    """All events up to the first text or end of an answer, or up to the first wake-up.

    Raises the error that the generation ends with before that.
    """
    events: list[GenerationEvent] = []
    async for batch in generation:
        events += batch
        if not all(isinstance(event, Waiting | Started) for event in batch) or not batch:
            break
    return events
