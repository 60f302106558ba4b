"""The events that one session has not sent yet; deltas of one answer merge while they wait.

    put, put ... (one runner step) ... put -> one wake-up -> take() -> one message

So a slow reader gets fewer, longer deltas, and what waits for it is bounded by the length of the
answers. Event loop only.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from services.engine.core import TokenLogprob
from services.engine.front.models.client_request import RequestItem
from services.engine.messages import reports

# The pieces of text and log-probabilities of prompts in one message; this keeps it far below the
# 64 MiB that gRPC allows.
_MAX_PIECES = 16384


@dataclass(slots=True, eq=False)
class MergedDelta:
    """Text of one answer that has not been sent yet, in pieces."""

    index: int
    pieces: list[str]
    tokens: int
    logprobs: list[TokenLogprob] = field(default_factory=list)


QueueItem = tuple[int, MergedDelta | RequestItem]  # the request_id of the session, and its event


class EventQueue:
    """The outgoing events of one session, in order for each request."""

    def __init__(self) -> None:
        self._items: list[QueueItem] = []
        self._open_deltas: dict[tuple[int, int], MergedDelta] = {}  # by request and answer
        self._pieces = 0  # in all events that wait
        self._wake = asyncio.Event()
        self._is_closed = False

    def put_delta(self, request_id: int, delta: reports.Delta) -> None:
        """Add text. The hot path: called once for each token."""
        self._pieces += 1
        merged = self._open_deltas.get((request_id, delta.index))
        if merged is not None and len(merged.pieces) < _MAX_PIECES:
            merged.pieces.append(delta.text)
            merged.tokens += delta.tokens
            merged.logprobs.extend(delta.logprobs)
            return
        merged = MergedDelta(delta.index, [delta.text], delta.tokens, list(delta.logprobs))
        self._open_deltas[(request_id, delta.index)] = merged
        self.put(request_id, merged)

    def put(self, request_id: int, item: MergedDelta | RequestItem) -> None:
        """Add any event. After `close` it is dropped: the stream has ended."""
        if self._is_closed:
            return
        if isinstance(item, reports.Finished):
            self._pieces += len(item.prompt_logprobs)
        self._items.append((request_id, item))
        self._wake.set()

    async def take(self) -> list[QueueItem]:
        """Wait for events and take one message of them; an empty list: closed, and none is left."""
        while not self._items:
            if self._is_closed:
                return []
            self._wake.clear()
            await self._wake.wait()
        if self._pieces <= _MAX_PIECES:
            taken, self._items, self._pieces = self._items, [], 0
        else:
            taken = self._take_oldest()
        self._open_deltas.clear()
        return taken

    def close(self) -> None:
        """Accept no more events. Those that wait can still be taken."""
        self._is_closed = True
        self._open_deltas.clear()
        self._wake.set()

    def _take_oldest(self) -> list[QueueItem]:
        """The oldest events, about as many as fit one message."""
        pieces = count = 0
        while count < len(self._items) and pieces <= _MAX_PIECES:
            pieces += _count_pieces(self._items[count][1])
            count += 1
        self._pieces -= pieces
        taken, self._items = self._items[:count], self._items[count:]
        return taken


def _count_pieces(item: MergedDelta | RequestItem) -> int:
    if isinstance(item, MergedDelta):
        return len(item.pieces)
    return len(item.prompt_logprobs) if isinstance(item, reports.Finished) else 0
