"""The events of one client request on their way from the engine to the HTTP or gRPC response.

The engine client pushes events, one task takes them. While that task waits for a slow client, the
events collect here. When there are many, their deltas are merged into one per answer: memory is
bounded by the text itself, and no other request waits. Log-probabilities, which cannot be merged,
end the generation when there are too many.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

import msgspec

from protos import engine_pb2
from services.shared.errors import (
    Cancelled,
    EngineUnavailable,
    InvalidRequest,
    SpindllError,
    from_wire,
)

_MERGE_ABOVE_EVENTS = 64
MAX_LOGPROBS = 1 << 19  # that wait for one client


class GenerationStream:
    """The events of one or several requests that belong together, with as many answers each.

    `index` counts through the answers of all requests. Event loop only. `close()` ends the
    generation early; it may be called twice, and after the end.
    """

    def __init__(self, request_ids: Sequence[int], *, answers_per_request: int) -> None:
        self.request_ids = tuple(request_ids)
        self._first_index = {
            request_id: number * answers_per_request
            for number, request_id in enumerate(request_ids)
        }
        self._open_answers = dict.fromkeys(request_ids, answers_per_request)
        self._events: list[engine_pb2.Event] = []
        self._merge_above = _MERGE_ABOVE_EVENTS
        self.is_abandoned = False
        self._error: SpindllError | None = None
        # A future for each wait costs less per token than an asyncio.Event.
        self._waiter: asyncio.Future[None] | None = None
        self._on_close: Callable[[GenerationStream], None] | None = None

    @property
    def open_request_ids(self) -> Sequence[int]:
        """The engine's ids of the requests that have not ended."""
        return tuple(self._open_answers)

    @property
    def is_over(self) -> bool:
        """Whether no further event will be pushed."""
        return self._error is not None or not self._open_answers

    async def take(self) -> list[engine_pb2.Event]:
        """The events since the last call, oldest first; waits for at least one.

        An empty list means that `wake()` was called or that everything is over. Raises the error
        that ended the generation, once the events before it were taken.
        """
        if not self._events and not self.is_over:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if not self._events and self._error is not None:
            raise self._error
        events, self._events = self._events, []
        self._merge_above = _MERGE_ABOVE_EVENTS
        return events

    def wake(self) -> None:
        """Let a waiting `take` return, with an empty list if there is no event."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self) -> None:
        """Cancel in the engine what is still running."""
        if self._on_close is not None:
            on_close, self._on_close = self._on_close, None
            on_close(self)

    def abandon(self) -> None:
        """Close because the client has disconnected; `take` then raises Cancelled."""
        self.close()
        self.is_abandoned = True
        self.fail(Cancelled("the client closed the connection"))

    # ---- for the engine client

    def set_close_callback(self, callback: Callable[[GenerationStream], None]) -> None:
        """Set the callback that `close` calls, at most once."""
        self._on_close = callback

    def push(self, event: engine_pb2.Event) -> None:
        """Add an event of one of the requests."""
        request = event.request_id
        if request not in self._open_answers or self._error is not None:
            return
        kind = event.WhichOneof("kind")
        if kind == "error":
            del self._open_answers[request]
            self._error = error_from_proto(event.error)
            self.wake()
            return
        if kind == "finished":
            if event.finished.reason == engine_pb2.FINISH_REASON_CANCELLED:
                self.fail(EngineUnavailable("the engine ended this answer early; try again"))
                return
            self._open_answers[request] -= 1
            if not self._open_answers[request]:
                del self._open_answers[request]
        event.index += self._first_index[request]
        self._events.append(event)
        if len(self._events) > self._merge_above:
            self._merge()
        self.wake()

    def _merge(self) -> None:
        self._events = merge_deltas(self._events)
        self._merge_above = len(self._events) + _MERGE_ABOVE_EVENTS
        if sum(map(_count_logprobs, self._events)) > MAX_LOGPROBS:
            self._events = []
            self._error = build_logprobs_error()

    def fail(self, error: SpindllError) -> None:
        """End all open requests with this error."""
        if not self.is_over:
            self._error = error
            self.wake()


def merge_deltas(events: Iterable[engine_pb2.Event]) -> list[engine_pb2.Event]:
    """Equivalent, fewer events: one delta per answer, then all other events unchanged."""
    texts: dict[int, list[str]] = {}
    deltas: dict[int, engine_pb2.Event] = {}
    others = []
    for event in events:
        if not event.HasField("delta"):
            others.append(event)
            continue
        merged = deltas.setdefault(event.index, event)
        texts.setdefault(event.index, []).append(event.delta.text)
        if merged is not event:
            merged.delta.tokens += event.delta.tokens
            merged.delta.logprobs.extend(event.delta.logprobs)
    for index, merged in deltas.items():
        merged.delta.text = "".join(texts[index])
    return [*deltas.values(), *others]


def build_logprobs_error() -> InvalidRequest:
    """The error of a request whose log-probabilities would take too much memory until they are sent."""
    return InvalidRequest(
        f"the answers have more than {MAX_LOGPROBS} log-probabilities that the client has not"
        " received: stream them, or ask for fewer",
        param="logprobs",
    )


def _count_logprobs(event: engine_pb2.Event) -> int:
    """About how many log-probabilities a delta has: its tokens have equally many of others."""
    logprobs = event.delta.logprobs if event.HasField("delta") else ()
    return len(logprobs) * (1 + len(logprobs[0].top)) if logprobs else 0


def error_from_proto(error: engine_pb2.Error) -> SpindllError:
    """The error that an event of the engine carries."""
    return from_wire(
        {
            "code": error.code,
            "message": error.message,
            "param": error.param if error.HasField("param") else None,
            "retry_after_seconds": (
                error.retry_after_seconds if error.HasField("retry_after_seconds") else None
            ),
            "details": msgspec.json.decode(error.details) if error.details else None,
        }
    )
