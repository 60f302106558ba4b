"""Writes the report of each request of one worker, beside the request: nothing waits for it.

begin     the engine begins with the prompt: its fingerprint is taken, in a thread, and compared
          with the one before
finish    the report gets the final numbers
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial

import msgspec
from redis.exceptions import RedisError

from services.api.access.principal import Principal
from services.api.cache_reports.fingerprint import Fingerprint, Prompt, hash_text, take_fingerprint
from services.api.cache_reports.prefill_rates import PrefillRates
from services.api.cache_reports.report import Asked, PromptUse, Report, build_report
from services.api.cache_reports.report_store import ReportStore
from services.api.clients.blocking_calls import BlockingCalls
from services.api.shared_budget import SharedBudget
from services.shared.errors import Unavailable
from services.shared.store.manifest import Manifest

logger = logging.getLogger(__name__)

_THREADS = 1
MAX_OPEN = 1024  # requests that are recorded at once; what is more has no report
_REDIS_SECONDS = 2.0
_SHORT_SECONDS = 0.5  # a request that ends within this time is written once, at its end


class Recording:
    """The request that a report is about, as far as its generation tells."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.begun: asyncio.Future[PromptUse | None] = loop.create_future()  # None: it never was
        self.finished: asyncio.Future[tuple[PromptUse, float]] = loop.create_future()

    def begin(self, use: PromptUse) -> None:
        """The engine begins with the prompt. Of several prompts, the first counts."""
        if not self.begun.done():
            self.begun.set_result(use)

    def finish(self, use: PromptUse | None, *, prompt_seconds: float) -> None:
        """The request is over. `use` is None where no answer has ended; twice is fine."""
        if self.finished.done():
            return
        if not self.begun.done():
            self.begun.set_result(use)
        begun = self.begun.result()
        if begun is not None:
            self.finished.set_result((use or begun, prompt_seconds))


class CacheReports:
    """The reports of one worker. Event loop only."""

    def __init__(self, store: ReportStore) -> None:
        self._store = store
        self._calls = BlockingCalls("fingerprint", threads=_THREADS, max_calls=MAX_OPEN)
        self._tasks: set[asyncio.Task[None]] = set()
        self._places = SharedBudget(MAX_OPEN)
        self._rates = PrefillRates()

    def start(
        self,
        request_id: str | None,
        principal: Principal,
        prompt: Prompt,
        *,
        manifest: Manifest,
        tenant: str,
        private_key: bytes,
        uses_cache: bool,
    ) -> Recording | None:
        """Begin to record a request; None where none is made."""
        if not (request_id and principal.fingerprint_key):
            return None
        if not self._places.take(principal.id, 1):
            return None
        recording, key = Recording(), principal.fingerprint_key

        def take() -> Asked:
            return Asked(
                request_id=request_id,
                tenant=hash_text(tenant, key),
                private_key=hash_text(private_key, key),
                model=hash_text(manifest.digest, key),
                fingerprint=take_fingerprint(prompt, key) if uses_cache else Fingerprint(()),
            )

        task = asyncio.create_task(
            self._record(recording, take, principal.id, manifest.name, uses_cache=uses_cache),
            name="cache report",
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: self._places.give_back(principal.id, 1))
        return recording

    async def find(self, request_id: str, principal: str | None) -> Report | None:
        """As `ReportStore.find`. Raises Unavailable while Redis does not answer."""
        try:
            async with asyncio.timeout(_REDIS_SECONDS):
                return await self._store.find(request_id, principal)
        except (RedisError, OSError, TimeoutError) as error:
            raise Unavailable("the reports cannot be read right now") from error

    async def close(self) -> None:
        """Finish what is being written, and drop the reports of what still runs."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=_SHORT_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _record(
        self,
        recording: Recording,
        take: Callable[[], Asked],
        principal: str,
        model: str,
        *,
        uses_cache: bool,
    ) -> None:
        try:
            use = await recording.begun
            if use is None:
                return
            asked = await self._calls.run(take, principal=principal)
            asked = msgspec.structs.replace(asked, prompt_tokens=use.prompt_tokens)
            before = await self._replace(principal, model, asked) if uses_cache else None
            build = partial(
                build_report,
                asked,
                before,
                model=model,
                created_at=time.time(),
                uses_cache=uses_cache,
            )
            await asyncio.wait([recording.finished], timeout=_SHORT_SECONDS)
            if not recording.finished.done():
                await self._put(principal, asked.request_id, build(use, is_finished=False))
            use, prompt_seconds = await recording.finished
            use = self._rates.estimate_saved(model, use, prompt_seconds)
            await self._put(principal, asked.request_id, build(use, is_finished=True))
        except (RedisError, OSError, TimeoutError, Unavailable) as error:
            logger.debug("no cache report", extra={"reason": type(error).__name__})

    async def _replace(self, principal: str, model: str, asked: Asked) -> Asked | None:
        async with asyncio.timeout(_REDIS_SECONDS):
            return await self._store.replace_asked(principal, model, asked)

    async def _put(self, principal: str, request_id: str, report: Report) -> None:
        async with asyncio.timeout(_REDIS_SECONDS):
            await self._store.put(principal, request_id, report)
