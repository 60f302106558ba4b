"""Reads the pull jobs that are watched, once for all watchers of a worker."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from services.shared.errors import InternalError, SpindllError
from services.shared.pulls.job import PullJob

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.4

Jobs = Mapping[str, PullJob]


class JobPoller:
    """Polls as long as there are watchers. Event loop only."""

    def __init__(self, read: Callable[[Sequence[str]], Awaitable[Jobs]]) -> None:
        self._read = read
        self._watchers: Counter[str] = Counter()
        self._next: asyncio.Future[Jobs | SpindllError] | None = None
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def watch(self, job_id: str) -> Iterator[Callable[[], Awaitable[Jobs]]]:
        """Watch a job for the length of the block: each call waits for the next poll."""
        self._watchers[job_id] += 1
        try:
            yield self._wait
        finally:
            self._watchers[job_id] -= 1
            self._watchers += Counter()  # drops those without a watcher

    async def _wait(self) -> Jobs:
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._poll(), name="job poller")
        found = await asyncio.shield(self._next)
        if isinstance(found, SpindllError):
            raise found
        return found

    async def _poll(self) -> None:
        while self._watchers:
            await asyncio.sleep(POLL_SECONDS)
            # Before the read: who comes during it waits for the next one, which reads its job too.
            waited, self._next = self._next, None
            if waited is not None:
                waited.set_result(await self._read_watched())

    async def _read_watched(self) -> Jobs | SpindllError:
        try:
            return await self._read(list(self._watchers))
        except SpindllError as error:
            return error
        except Exception:  # the watchers must not wait for ever
            logger.exception("pull jobs cannot be read")
            return InternalError("internal error")
