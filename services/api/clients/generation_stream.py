"""One request's events on their way from the engine to its client.

The engine client pushes, one task takes. While the taker is busy with a slow client, deltas pile up
here; once there are many they are merged into one per answer, so that memory is bounded by the
text itself and nobody else waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

import msgspec

from protos import engine_pb2
from services.shared.errors import Cancelled, EngineUnavailable, SpindllError, from_wire

_MERGE_ABOVE_EVENTS = 64


class Generation:
    """The answers to one or more submits that belong together; `index` counts through all of them.

    Event loop only. Leaving early is `close()`; it is fine to call it twice, and after the end.
    """

    def __init__(self, submits: Sequence[engine_pb2.Submit]) -> None:
        self.submits = tuple(submits)
        self._first_index: dict[int, int] = {}
        self._open_answers: dict[int, int] = {}
        total = 0
        for submit in submits:
            self._first_index[submit.request_id] = total
            self._open_answers[submit.request_id] = max(1, submit.n)
            total += max(1, submit.n)
        self.answers = total
        self._events: list[engine_pb2.Event] = []
        self._merge_above = _MERGE_ABOVE_EVENTS
        self.is_abandoned = False
        self._error: SpindllError | None = None
        self._waiter: asyncio.Future[None] | None = None  # cheaper than an Event, for every token
        self._on_close: Callable[[Generation], None] | None = None

    @property
    def request_ids(self) -> Iterable[int]:
        """The engine's ids of the requests that have not ended."""
        return tuple(self._open_answers)

    @property
    def is_over(self) -> bool:
        """Nothing more will be pushed."""
        return self._error is not None or not self._open_answers

    def request_of(self, index: int) -> int:
        """Which of the submits an answer belongs to."""
        for number, submit in enumerate(self.submits):
            index -= max(1, submit.n)
            if index < 0:
                return number
        raise IndexError(index)

    async def take(self) -> list[engine_pb2.Event]:
        """What has happened since the last time, oldest first; waits for something.

        An empty list means `wake()` was called, or that everything is over. Raises the error the
        request ended with, once what came before it was taken.
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
        """Let a waiting `take` return, empty-handed if need be."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self) -> None:
        """The client needs no more: what still runs is cancelled in the engine."""
        if self._on_close is not None:
            on_close, self._on_close = self._on_close, None
            on_close(self)

    def abandon(self) -> None:
        """The client has gone: close, and let the taker find out."""
        self.close()
        self.is_abandoned = True
        self.fail(Cancelled("the client closed the connection"))

    # ---- for the engine client

    def on_close(self, callback: Callable[[Generation], None]) -> None:
        """Call this when the taker leaves."""
        self._on_close = callback

    def push(self, event: engine_pb2.Event) -> None:
        """Something happened to one of the requests."""
        request = event.request_id
        if request not in self._open_answers or self._error is not None:
            return
        kind = event.WhichOneof("kind")
        if kind == "error":
            del self._open_answers[request]
            self._error = error_of(event.error)
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
            self._events = merged(self._events)
            self._merge_above = len(self._events) + _MERGE_ABOVE_EVENTS
        self.wake()

    def fail(self, error: SpindllError) -> None:
        """Everything still open ends with this error."""
        if not self.is_over:
            self._error = error
            self.wake()


def merged(events: Iterable[engine_pb2.Event]) -> list[engine_pb2.Event]:
    """The same happenings in fewer events: one delta an answer, the rest as they were, after it."""
    texts: dict[int, list[str]] = {}
    deltas: dict[int, engine_pb2.Event] = {}
    others = []
    for event in events:
        if not event.HasField("delta"):
            others.append(event)
            continue
        into = deltas.setdefault(event.index, event)
        texts.setdefault(event.index, []).append(event.delta.text)
        if into is not event:
            into.delta.tokens += event.delta.tokens
            into.delta.logprobs.extend(event.delta.logprobs)
    for index, into in deltas.items():
        into.delta.text = "".join(texts[index])
    return [*deltas.values(), *others]


def error_of(error: engine_pb2.Error) -> SpindllError:
    """Our error, out of the engine's event."""
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
