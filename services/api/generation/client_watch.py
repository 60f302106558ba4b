"""Between a request's mailbox and its HTTP answer: who still listens, and how long nobody spoke."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from starlette.types import Receive

from protos import engine_pb2
from services.api.clients.generation_stream import Generation

T = TypeVar("T")


class Watch:
    """Follows one generation for one HTTP request. `stop()` must be called; twice is fine.

    A client that leaves abandons the generation at once, streaming or not. Silence wakes the
    taker: a timer that looks back, so that a token costs no timer of its own.
    """

    def __init__(
        self, generation: Generation, receive: Receive, *, silence_seconds: float | None
    ) -> None:
        self._generation = generation
        self._receive = receive
        self._silence_seconds = silence_seconds
        self._heard = True
        self._timer: asyncio.TimerHandle | None = None
        self._listener = asyncio.create_task(self._listen(), name="client watch")
        self._arm()

    def heard(self) -> None:
        """Something was sent; silence starts anew."""
        self._heard = True

    def stop(self) -> None:
        """Nobody waits any more: what still runs is cancelled."""
        self._listener.cancel()
        if self._timer is not None:
            self._timer.cancel()
        self._generation.close()

    async def _listen(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._generation.abandon()
                return

    def _arm(self) -> None:
        if self._silence_seconds is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._silence_seconds, self._look_back)

    def _look_back(self) -> None:
        if not self._heard:
            self._generation.wake()
        self._heard = False
        self._arm()


async def first_events(generation: Generation) -> list[engine_pb2.Event]:
    """Everything up to the first word of an answer, or up to the first wake-up.

    Until then an error can still be an HTTP status; it is raised.
    """
    events: list[engine_pb2.Event] = []
    while not generation.is_over:
        taken = await generation.take()
        events += taken
        if not taken or any(e.HasField("delta") or e.HasField("finished") for e in taken):
            return events
    return events + await generation.take()


async def collect(generation: Generation, note: Callable[[engine_pb2.Event], None]) -> None:
    """Wait for the whole answer, noting every event. Raises what it ended with."""
    while True:
        for event in await generation.take():
            note(event)
        if generation.is_over:
            for event in await generation.take():
                note(event)
            return
