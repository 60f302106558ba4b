"""Threads for blocking calls, a few for each kind of call.

asyncio.to_thread has one small pool for a whole process: five calls to a Redis that hangs would
take all of it, and chats would wait for a thread to look up their model.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from services.shared.errors import Unavailable

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Waiting:
    """A call that has no thread yet, or runs."""

    call: Callable[[], Any]
    result: asyncio.Future[Any]


class BlockingCalls:
    """Runs one kind of blocking call. Event loop only.

    Principals take turns: one with a thousand calls delays a call of another by one of its own.
    """

    def __init__(self, name: str, *, threads: int, max_calls: int) -> None:
        """`max_calls`: running and waiting ones; beyond that, calls fail at once."""
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._threads = threads
        self._max_calls = max_calls
        self._running = 0
        # By principal, in the order of their turns; no queue is empty.
        self._queues: OrderedDict[str, deque[_Waiting]] = OrderedDict()

    @property
    def pending(self) -> int:
        """The number of calls that run or wait."""
        return self._running + sum(map(len, self._queues.values()))

    async def run(self, call: Callable[[], T], *, principal: str = "") -> T:
        """The call's result; Unavailable when too many calls wait already.

        A caller that is cancelled takes its call out of the queue, if it does not run yet.
        """
        self._make_room(principal)
        waiting = _Waiting(call, asyncio.get_running_loop().create_future())
        self._queues.setdefault(principal, deque()).append(waiting)
        self._start_next()
        try:
            result: T = await waiting.result
        except asyncio.CancelledError:
            self._forget(principal, waiting)  # a call that runs still occupies its thread
            raise
        return result

    def _make_room(self, principal: str) -> None:
        """Where all places are taken, the principal with the most calls gives up its last one."""
        if self.pending < self._max_calls:
            return
        error = Unavailable("too many requests wait for the same thing; try again shortly")
        longest = max(self._queues, key=lambda name: len(self._queues[name]), default=principal)
        own_calls = len(self._queues.get(principal, ()))
        if longest == principal or len(self._queues[longest]) <= own_calls + 1:
            raise error
        last = self._queues[longest].pop()
        if not last.result.done():  # its caller may have left, and not have run since
            last.result.set_exception(error)

    def _start_next(self) -> None:
        while self._queues and self._running < self._threads:
            principal, queue = self._queues.popitem(last=False)
            waiting = queue.popleft()
            if queue:
                self._queues[principal] = queue  # behind the others
            self._running += 1
            done = asyncio.wrap_future(self._executor.submit(waiting.call))
            done.add_done_callback(partial(self._finish, waiting))

    def _finish(self, waiting: _Waiting, done: asyncio.Future[Any]) -> None:
        self._running -= 1
        self._start_next()
        if done.cancelled():
            waiting.result.cancel()
            return
        error = done.exception()
        if waiting.result.done():  # the caller has left
            return
        if error is None:
            waiting.result.set_result(done.result())
        else:
            waiting.result.set_exception(error)

    def _forget(self, principal: str, waiting: _Waiting) -> None:
        queue = self._queues.get(principal)
        if queue is not None and waiting in queue:
            queue.remove(waiting)
            if not queue:
                del self._queues[principal]
