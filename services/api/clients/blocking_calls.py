"""Threads for blocking calls, a few for each kind of call.

asyncio.to_thread has one small pool for a whole process: five calls to a Redis that hangs would
take all of it, and chats would wait for a thread to look up their model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from services.shared.errors import Unavailable

T = TypeVar("T")


class BlockingCalls:
    """Runs one kind of blocking call. Event loop only."""

    def __init__(self, name: str, *, threads: int, max_calls: int) -> None:
        """`max_calls`: running and waiting ones; beyond that, calls fail at once."""
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._max_calls = max_calls
        self._calls = 0

    async def run(self, call: Callable[[], T]) -> T:
        """The call's result; Unavailable when too many calls wait already.

        A caller that is cancelled takes its call out of the queue, if it does not run yet.
        """
        if self._calls >= self._max_calls:
            raise Unavailable("too many requests wait for the same thing; try again shortly")
        self._calls += 1
        queued = self._executor.submit(call)
        future = asyncio.wrap_future(queued)
        future.add_done_callback(self._count_end)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            queued.cancel()  # a call that runs still occupies its thread
            raise

    def _count_end(self, future: asyncio.Future[T]) -> None:
        self._calls -= 1
        if not future.cancelled():
            future.exception()  # no caller may be left to look at it
