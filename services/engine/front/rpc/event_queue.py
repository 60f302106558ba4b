"""What one session still has to be told; deltas of one answer merge while nobody reads.

    put, put ... (one runner step) ... put -> one wake-up -> take() -> one message

So a slow reader gets fewer, longer deltas, and what waits for it is bounded by the answers' own
length. Event loop only.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from services.engine import messages
from services.engine.core import TokenLogprob
from services.engine.front.models.request import Waiting

# Far below the 64 MiB a message may have: a delta beyond it starts a new one.
_MOST_PIECES = 16384


@dataclass(slots=True, eq=False)
class MergedDelta:
    """Text of one answer that was not sent yet, in pieces."""

    index: int
    pieces: list[str]
    tokens: int
    logprobs: list[TokenLogprob] = field(default_factory=list)


Said = messages.Queued | messages.Started | messages.Finished | messages.Failed | Waiting
Item = tuple[int, MergedDelta | Said]  # request_id of the session, and what happened to it


class Mailbox:
    """Outgoing items of one session, in order for each request."""

    def __init__(self) -> None:
        self._items: list[Item] = []
        self._growing: dict[tuple[int, int], MergedDelta] = {}
        self._pieces = 0  # of deltas, not taken yet
        self._wake = asyncio.Event()
        self._is_closed = False

    def put_delta(self, request_id: int, delta: messages.Delta) -> None:
        """Some more text; the hot path, once per token."""
        self._pieces += 1
        growing = self._growing.get((request_id, delta.index))
        if growing is not None and len(growing.pieces) < _MOST_PIECES:
            growing.pieces.append(delta.text)
            growing.tokens += delta.tokens
            growing.logprobs.extend(delta.logprobs)
            return
        merged = MergedDelta(delta.index, [delta.text], delta.tokens, list(delta.logprobs))
        self._growing[(request_id, delta.index)] = merged
        self.put(request_id, merged)

    def put(self, request_id: int, item: MergedDelta | Said) -> None:
        """Anything. After close() it is dropped: nobody is there to hear it."""
        if self._is_closed:
            return
        self._items.append((request_id, item))
        self._wake.set()

    async def take(self) -> list[Item]:
        """Wait for items and take what one message holds; empty: the mailbox is closed and empty."""
        while not self._items:
            if self._is_closed:
                return []
            self._wake.clear()
            await self._wake.wait()
        if self._pieces <= _MOST_PIECES:
            taken, self._items, self._pieces = self._items, [], 0
        else:
            taken = self._cut()
        self._growing.clear()
        return taken

    def close(self) -> None:
        """Say nothing more; what is there can still be taken."""
        self._is_closed = True
        self._growing.clear()
        self._wake.set()

    def _cut(self) -> list[Item]:
        """The oldest items, of about one message's size."""
        size = count = 0
        while count < len(self._items) and size <= _MOST_PIECES:
            item = self._items[count][1]
            size += len(item.pieces) if isinstance(item, MergedDelta) else 0
            count += 1
        self._pieces -= size
        taken, self._items = self._items[:count], self._items[count:]
        return taken
