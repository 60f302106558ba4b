"""From a generation to an HTTP response, streamed or complete, in the shape of any dialect."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from protos import engine_pb2
from services.api.clients.generation_stream import GenerationStream, merge_deltas
from services.api.generation.client_watch import ClientWatch, take_all, take_until_first_token
from services.api.streaming.sse import DONE, EventStreamResponse, encode_comment, encode_error
from services.shared.errors import SpindllError

_QUEUE_REASONS = {
    engine_pb2.QUEUE_REASON_LOADING: "loading",
    engine_pb2.QUEUE_REASON_MEMORY: "memory",
    engine_pb2.QUEUE_REASON_SLOTS: "slots",
}


class ResponseBuilder(Protocol):
    """Builds a dialect's complete response from the events of a generation."""

    def add(self, event: engine_pb2.Event) -> None:
        """One event, in order."""

    def build(self) -> dict[str, Any]:
        """The response object, once every event was added."""


class StreamEncoder(Protocol):
    """Encodes the events of a generation as a dialect's stream; each result is whole SSE events.

    A method returns empty bytes where the dialect sends nothing.
    """

    def opening(self) -> bytes:
        """What the stream begins with."""

    def delta(self, event: engine_pb2.Event) -> bytes:
        """More text of answer `event.index`. Hot: called for every step of every stream."""

    def finish(self, event: engine_pb2.Event) -> bytes:
        """The end of answer `event.index`."""

    def closing(self) -> bytes:
        """What follows the last answer's end."""


async def respond_with_stream(
    request: Request,
    generation: GenerationStream,
    encoder: StreamEncoder,
    *,
    keepalive_seconds: float,
) -> Response:
    """A streamed response; a comment is sent after each `keepalive_seconds` without an event.

    The headers are sent with the first token or the first comment: until then, an error becomes an
    HTTP error. Closes the generation.
    """
    watch = ClientWatch(generation, request.receive, silence_seconds=keepalive_seconds)
    try:
        first = await take_until_first_token(generation)
    except BaseException:
        watch.stop()
        raise
    return _GenerationResponse(generation, encoder, watch, first)


async def respond_with_body(
    request: Request, generation: GenerationStream, builder: ResponseBuilder
) -> Response:
    """A complete response, sent when the generation has finished.

    A client that disconnects earlier cancels the generation. Closes the generation.
    """
    watch = ClientWatch(generation, request.receive, silence_seconds=None)
    try:
        await take_all(generation, builder.add)
    finally:
        watch.stop()
    return Response(msgspec.json.encode(builder.build()), media_type="application/json")


class _GenerationResponse(EventStreamResponse):
    """Streams one generation; each write holds all events that arrived since the last one.

    Stops the watch, which closes the generation, when the stream ends.
    """

    def __init__(
        self,
        generation: GenerationStream,
        encoder: StreamEncoder,
        watch: ClientWatch,
        first: list[engine_pb2.Event],
    ) -> None:
        super().__init__(self._frames())
        self._generation = generation
        self._encoder = encoder
        self._watch = watch
        self._events = first
        self._queued: engine_pb2.Queued | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As in the parent class, except that the watch already waits for a disconnect."""
        try:
            await self.stream_response(send)
        finally:
            self._watch.stop()

    async def _frames(self) -> AsyncIterator[bytes]:
        generation = self._generation
        pending = self._encoder.opening()
        try:
            while True:
                pending += self._encode_events()
                if generation.is_over:
                    # Returns at once: the remaining events, an empty list, or an error.
                    self._events = await generation.take()
                    if self._events:
                        continue
                    pending += self._encoder.closing()
                    break
                if pending:
                    yield pending
                    self._watch.note_write()
                self._events = await generation.take()
                pending = b"" if self._events else self._encode_status()
        except SpindllError as error:
            if generation.is_abandoned:
                return
            pending += encode_error(error)
        yield pending + DONE

    def _encode_events(self) -> bytes:
        events = self._events
        if len(events) > 1:
            events = merge_deltas(events)
        frames = []
        for event in events:
            kind = event.WhichOneof("kind")
            if kind == "delta":
                frames.append(self._encoder.delta(event))
            elif kind == "finished":
                frames.append(self._encoder.finish(event))
            elif kind == "queued":
                self._queued = event.queued
                frames.append(self._encode_status())
            elif kind == "started":
                self._queued = None
        return b"".join(frames)

    def _encode_status(self) -> bytes:
        """A comment that reports the queue position while the request waits."""
        if self._queued is None:
            return encode_comment("working")
        reason = _QUEUE_REASONS.get(self._queued.reason, "")
        return encode_comment(f"queued position={self._queued.position} reason={reason}")
