"""From a generation to an HTTP response, streamed or complete, in the shape of any dialect."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from services.api.generation.answers.accumulator import Answer, accumulate
from services.api.generation.answers.events import (
    Finished,
    GenerationEvent,
    PartEvent,
    Started,
    TextDelta,
    Waiting,
)
from services.api.generation.client_watch import ClientWatch, take_until_first_token
from services.api.generation.generation import Generation
from services.api.streaming.sse import DONE, EventStreamResponse, encode_comment, encode_error
from services.shared.errors import SpindllError


class StreamEncoder(Protocol):
    """Encodes the events of a generation as a dialect's stream; each result is whole SSE events.

    A method returns empty bytes where the dialect sends nothing.
    """

    def opening(self) -> bytes:
        """What the stream begins with."""

    def delta(self, delta: TextDelta) -> bytes:
        """More text of one answer. Hot: called for every step of every stream."""

    def part(self, part: PartEvent) -> bytes:
        """More of the thinking, or of a call. A plain answer has neither."""

    def finish(self, finished: Finished) -> bytes:
        """The end of one answer."""

    def closing(self) -> bytes:
        """What follows the last answer's end."""


async def respond_with_stream(
    request: Request,
    generation: Generation,
    encoder: StreamEncoder,
    *,
    keepalive_seconds: float,
) -> Response:
    """A streamed response; comments are sent while there is no event, see ClientWatch.

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
    request: Request,
    generation: Generation,
    build_body: Callable[[Sequence[Answer]], dict[str, Any]],
) -> Response:
    """A complete response, sent when the generation has finished.

    A client that disconnects earlier cancels the generation. Closes the generation.
    """
    watch = ClientWatch(generation, request.receive, silence_seconds=None)
    try:
        answers = await accumulate(generation, answer_count=generation.answer_count)
    finally:
        watch.stop()
    return Response(msgspec.json.encode(build_body(answers)), media_type="application/json")


class _GenerationResponse(EventStreamResponse):
    """Streams one generation; each write holds all events that arrived since the last one.

    Stops the watch, which closes the generation, when the stream ends.
    """

    def __init__(
        self,
        generation: Generation,
        encoder: StreamEncoder,
        watch: ClientWatch,
        first: list[GenerationEvent],
    ) -> None:
        super().__init__(self._frames(first))
        self._generation = generation
        self._encoder = encoder
        self._watch = watch
        self._waiting: Waiting | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As in the parent class, except that the watch already waits for a disconnect."""
        try:
            await self.stream_response(send)
        finally:
            self._watch.stop()

    async def _frames(self, first: list[GenerationEvent]) -> AsyncIterator[bytes]:
        generation = self._generation
        pending = self._encoder.opening() + self._encode(first)
        try:
            if pending and not generation.is_over:
                yield pending
                self._watch.note_write()
                pending = b""
            async for events in generation:
                pending += self._encode(events) if events else self._encode_status()
                # At the end the rest comes at once: send it in one write.
                if pending and not generation.is_over:
                    yield pending
                    self._watch.note_write()
                    pending = b""
            pending += self._encoder.closing()
        except SpindllError as error:
            if generation.is_abandoned:
                return
            pending += encode_error(error)
        yield pending + DONE

    def _encode(self, events: Iterable[GenerationEvent]) -> bytes:
        frames = []
        for event in events:
            if isinstance(event, TextDelta):
                frames.append(self._encoder.delta(event))
            elif isinstance(event, Finished):
                frames.append(self._encoder.finish(event))
            elif isinstance(event, Waiting):
                self._waiting = event
                frames.append(self._encode_status())
            elif isinstance(event, Started):
                self._waiting = None
            else:
                frames.append(self._encoder.part(event))
        return b"".join(frames)

    def _encode_status(self) -> bytes:
        """A comment that reports the queue position while the request waits."""
        if self._waiting is None:
            return encode_comment("working")
        reason = "" if self._waiting.reason is None else self._waiting.reason.value
        return encode_comment(f"queued position={self._waiting.position} reason={reason}")
