"""A streamed answer: server-sent events, one write for all that came since the last.

data: {chunk}      a piece of the answer, as the dialect shapes it
: queued …         a comment, so that nothing between us and the client thinks we died
data: {"error":…}  what went wrong after the status was sent
data: [DONE]       always the end
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

import msgspec
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from protos import engine_pb2
from services.api.clients.generation_stream import Generation, merged
from services.api.errors import body_of
from services.api.generation.client_watch import Watch
from services.shared.errors import SpindllError

_DONE = b"data: [DONE]\n\n"
_REASONS = {
    engine_pb2.QUEUE_REASON_LOADING: "loading",
    engine_pb2.QUEUE_REASON_MEMORY: "memory",
    engine_pb2.QUEUE_REASON_SLOTS: "slots",
}


class Chunks(Protocol):
    """A dialect's shapes, each a whole event in bytes (or none: empty)."""

    def opening(self) -> bytes:
        """Before anything else."""

    def delta(self, event: engine_pb2.Event) -> bytes:
        """More text of answer `event.index`. Hot: called for every step of every stream."""

    def finish(self, event: engine_pb2.Event) -> bytes:
        """Answer `event.index` ended."""

    def closing(self) -> bytes:
        """After the last finish."""


class EventStream(StreamingResponse):
    """Streams one generation. The watch is stopped and the generation closed when it ends."""

    media_type = "text/event-stream"

    def __init__(
        self,
        generation: Generation,
        chunks: Chunks,
        watch: Watch,
        first: list[engine_pb2.Event],
    ) -> None:
        super().__init__(
            self._writes(), headers={"cache-control": "no-cache", "x-accel-buffering": "no"}
        )
        self._generation = generation
        self._chunks = chunks
        self._watch = watch
        self._events = first
        self._queued: engine_pb2.Queued | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As the parent's, but the watch already listens for a client that leaves."""
        try:
            await self.stream_response(send)
        finally:
            self._watch.stop()

    async def _writes(self) -> AsyncIterator[bytes]:
        generation = self._generation
        pending = self._chunks.opening()
        try:
            while True:
                pending += self._encoded()
                if generation.is_over:
                    self._events = await generation.take()  # at once: the rest, nothing, an error
                    if self._events:
                        continue
                    pending += self._chunks.closing()
                    break
                if pending:
                    yield pending
                    self._watch.heard()
                self._events = await generation.take()
                pending = b"" if self._events else self._comment()
        except SpindllError as error:
            if generation.is_abandoned:
                return
            pending += b"data: " + msgspec.json.encode(body_of(error)) + b"\n\n"
        yield pending + _DONE

    def _encoded(self) -> bytes:
        events = self._events
        if len(events) > 1:
            events = merged(events)
        parts = []
        for event in events:
            kind = event.WhichOneof("kind")
            if kind == "delta":
                parts.append(self._chunks.delta(event))
            elif kind == "finished":
                parts.append(self._chunks.finish(event))
            elif kind == "queued":
                self._queued = event.queued
                parts.append(self._comment())
            elif kind == "started":
                self._queued = None
        return b"".join(parts)

    def _comment(self) -> bytes:
        if self._queued is None:
            return b": working\n\n"
        reason = _REASONS.get(self._queued.reason, "")
        return b": queued position=%d reason=%s\n\n" % (self._queued.position, reason.encode())
