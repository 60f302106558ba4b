"""How a worker stops: HTTP and gRPC together, each answer with an end, all within a time limit.

begin            no new connections and calls; watches of pull jobs end
begin + drain    what still runs ends with an error, as an event or a status
+ LAST_WORDS     what could not be delivered is cut off
+ KILL           gunicorn would kill the worker
"""

from __future__ import annotations

import asyncio
import logging

import grpc.aio

from services.api.clients.engine import EngineClient
from services.api.clients.pulls import PullClient
from services.api.prompts.render import PromptRenderer

logger = logging.getLogger(__name__)

LAST_WORDS_SECONDS = 2
KILL_SECONDS = 5  # after the drain time


class Shutdown:
    """The end of one worker. Event loop only; `finish` must be called."""

    def __init__(
        self,
        engine: EngineClient,
        pulls: PullClient,
        prompts: PromptRenderer,
        *,
        drain_seconds: float,
    ) -> None:
        self._engine = engine
        self._pulls = pulls
        self._prompts = prompts
        self._drain_seconds = drain_seconds
        self._grpc_server: grpc.aio.Server | None = None
        self._http_ended = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def set_grpc_server(self, server: grpc.aio.Server | None) -> None:
        """Set the gRPC server to stop, if there is one."""
        self._grpc_server = server

    def begin(self) -> None:
        """Stop taking new work; calling it twice is fine."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="shutdown")

    async def finish(self) -> None:
        """Return when every call has ended, and the engine client and the renderer are closed."""
        self._http_ended.set()
        self.begin()
        assert self._task is not None
        await self._task

    async def _run(self) -> None:
        self._pulls.stop_watches()
        ended = asyncio.gather(self._http_ended.wait(), self._stop_grpc())
        try:
            async with asyncio.timeout(self._drain_seconds):
                await asyncio.shield(ended)
        except TimeoutError:
            logger.warning("answers cut off", extra={"seconds": self._drain_seconds})
        await self._engine.close()
        await asyncio.to_thread(self._prompts.close)
        await ended

    async def _stop_grpc(self) -> None:
        if self._grpc_server is not None:
            await self._grpc_server.stop(self._drain_seconds + LAST_WORDS_SECONDS / 2)
