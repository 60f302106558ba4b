"""From a generation to an HTTP response, streamed or whole, in any dialect's shape."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec
from fastapi import Request, Response

from protos import engine_pb2
from services.api.clients.generation_stream import Generation
from services.api.generation.client_watch import Watch, collect, first_events
from services.api.streaming.sse import Chunks, EventStream


class Whole(Protocol):
    """An answer in one piece: takes in events, then is a JSON object."""

    def note(self, event: engine_pb2.Event) -> None:
        """One event, in order."""

    def body(self) -> dict[str, Any]:
        """The response object, once everything was noted."""


async def streamed(
    request: Request, generation: Generation, chunks: Chunks, *, silence_seconds: float
) -> Response:
    """Headers go out with the first word, or after the first silence: until then an error is an
    HTTP error. Closes the generation."""
    watch = Watch(generation, request.receive, silence_seconds=silence_seconds)
    try:
        first = await first_events(generation)
    except BaseException:
        watch.stop()
        raise
    return EventStream(generation, chunks, watch, first)


async def whole(request: Request, generation: Generation, answer: Whole) -> Response:
    """Everything at once. A client that leaves meanwhile cancels it. Closes the generation."""
    watch = Watch(generation, request.receive, silence_seconds=None)
    try:
        await collect(generation, answer.note)
    finally:
        watch.stop()
    return Response(msgspec.json.encode(answer.body()), media_type="application/json")
