"""Computes named prefixes ahead, and again where a model was loaded without them.

    create          load the model ─► compute (background) ─► wait until it is stored ─► pin
    a model loads   find what is stored ─► bring it into RAM ─► compute what is missing (batch)

A request that waits goes first. What is computed after a load is given up when another model waits
for the memory. The tenant's keys are taken once: where they are destroyed meanwhile, what was
sealed with them is unreadable, and the prefix is not kept. Event loop only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import msgspec

from services.engine.core import CacheKey, Lane, Sampling, Stopping
from services.engine.front.cache_index.pinned_prefixes import PinnedPrefixes
from services.engine.front.cache_index.prefix_files import NamedPrefix, PrefixPrompt
from services.engine.front.cache_index.prompt_cache import PromptCache
from services.engine.front.models.client_request import ClientRequest, RequestItem
from services.engine.front.models.loaded_model import LoadedModel
from services.engine.front.models.manager import ModelManager
from services.engine.front.models.model_state import ModelState
from services.engine.front.models.pool import ModelPool
from services.engine.messages import commands, reports
from services.shared.errors import (
    Conflict,
    EngineBusy,
    EngineUnavailable,
    InvalidRequest,
    NotFound,
    SpindllError,
    from_wire,
)
from services.shared.store.manifest import Manifest

MAX_CREATING = 4  # prefixes of a principal at once: each is looked for again until it is stored
_POLL_SECONDS = 0.25
_STORE_SECONDS = 30.0  # in which nothing more of a computed prompt is stored

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Job:
    """A prefix to compute, with its tenant's realm and keys as they were when this began."""

    prefix: NamedPrefix
    prompt: PrefixPrompt
    realm: str
    keys: tuple[CacheKey, ...] = field(repr=False)


class PrefixKeeper:
    """See the module."""

    def __init__(self, pool: ModelPool, manager: ModelManager, prompt_cache: PromptCache) -> None:
        self._pool = pool
        self._manager = manager
        self._prompt_cache = prompt_cache
        self._creating: Counter[str] = Counter()  # by principal

    async def create(
        self, prefix: NamedPrefix, manifest: Manifest, prompt: PrefixPrompt
    ) -> NamedPrefix:
        """Compute a prefix, pin it, and return it with what is stored; replaces one of its name.

        InvalidRequest: it is too short. Conflict: nothing can be stored, or the tenant's keys were
        destroyed meanwhile. CacheShareExceeded. EngineBusy: its principal creates too many at once.
        And what a request for the model raises.
        """
        prefixes = self._prefixes
        if not self._prompt_cache.is_written:
            raise Conflict("nothing is stored: SPINDLL_CACHE_WRITE is never")
        prefixes.check_count(prefix.tenant, prefix.name)
        with self._take_place(prefix.principal):
            job = self._open_job(prefix, prompt)
            added = await self._store(job, manifest)
            check = partial(self._prompt_cache.check_keys, job.keys)
            await prefixes.pin(added, prompt, check=check)
        return added

    def find(self, tenant: str | None) -> list[NamedPrefix]:
        """The prefixes of one tenant or of all; none where nothing is stored."""
        prefixes = self._prompt_cache.prefixes
        return [] if prefixes is None else prefixes.files.list(tenant)

    async def measure(self, prefix: NamedPrefix) -> int:
        """The bytes that are stored of it."""
        return await self._prefixes.measure(prefix)

    async def delete(self, tenant: str, name: str) -> None:
        """Delete a prefix. NotFound."""
        prefixes = self._prompt_cache.prefixes
        prefix = None if prefixes is None else prefixes.files.get(tenant, name)
        if prefixes is None or prefix is None:
            raise NotFound(f"there is no prefix {name!r}")
        await prefixes.unpin(prefix)

    def on_model_ready(self, model: LoadedModel) -> None:
        """Warm the prefixes of a model that has just been loaded."""
        try:
            found = [prefix for prefix in self.find(None) if prefix.model_digest == model.key]
        except OSError as error:
            logger.warning("named prefixes cannot be read", extra={"reason": error.strerror})
            return
        if found:
            self._pool.run_until_close(self._warm_all(model, found))

    @property
    def _prefixes(self) -> PinnedPrefixes:
        prefixes = self._prompt_cache.prefixes
        if prefixes is None:
            raise Conflict("nothing is stored: SPINDLL_CACHE_DISK and SPINDLL_CACHE_RAM are off")
        return prefixes

    def _open_job(self, prefix: NamedPrefix, prompt: PrefixPrompt) -> _Job:
        return _Job(prefix, prompt, *self._prompt_cache.open_realm(prefix.tenant))

    async def _store(self, job: _Job, manifest: Manifest) -> NamedPrefix:
        model = await self._manager.load_and_wait(manifest)
        await self._compute(model, job, Lane.BACKGROUND)
        model = await self._manager.load_and_wait(manifest)  # it may have left since
        located = await self._wait_until_stored(model, job)
        if not located.storable_tokens:
            raise InvalidRequest(
                f"the prompt has {located.prompt_tokens} tokens, too few to be stored"
            )
        if located.stored_tokens < located.storable_tokens:
            raise Conflict("the prompt was computed, but cannot be stored now: see GET /v1/cache")
        return _note_stored(job.prefix, located)

    @contextmanager
    def _take_place(self, principal: str) -> Iterator[None]:
        if self._creating[principal] >= MAX_CREATING:
            raise EngineBusy(f"{MAX_CREATING} named prefixes are being created already")
        self._creating[principal] += 1
        try:
            yield
        finally:
            self._creating[principal] -= 1
            self._creating += Counter()  # without those that have none

    async def _warm_all(self, model: LoadedModel, found: list[NamedPrefix]) -> None:
        for prefix in found:
            try:
                await self._warm(model, prefix)
            except (SpindllError, OSError) as error:
                logger.warning(
                    "named prefix not warmed", extra={"model": model.name, "reason": str(error)}
                )
                if model.state is not ModelState.READY:
                    return

    async def _warm(self, model: LoadedModel, prefix: NamedPrefix) -> None:
        prompt = self._prefixes.files.read_prompt(prefix)
        if prompt is None:
            return
        job = self._open_job(prefix, prompt)
        located = await self._locate(model, job)
        if located.stored_tokens < located.storable_tokens and self._prompt_cache.is_written:
            await self._compute(model, job, Lane.BATCH)
            located = await self._wait_until_stored(model, job)
        warmed = _note_stored(prefix, located)
        if warmed != prefix:
            await self._prefixes.update(prefix, warmed, prompt)

    async def _compute(self, model: LoadedModel, job: _Job, lane: Lane) -> None:
        """Run a request that generates one token."""
        self._prompt_cache.check_keys(job.keys)
        prefix, prompt = job.prefix, job.prompt
        outcome = _Outcome()
        submit = commands.Submit(
            id=0,
            pieces=prompt.pieces,
            tokens=prompt.tokens,
            add_special=prompt.add_special,
            sampling=Sampling(temperature=0.0),
            stopping=Stopping(max_tokens=1),
            lane=lane,
            principal=prefix.principal,
            realm=job.realm,
            cache_keys=job.keys,
            stores_always=True,
        )
        request = ClientRequest(
            submit,
            outcome,
            request_id=0,
            trace_id=f"prefix-{lane.name.lower()}",
            model_name=model.name,
            keep_alive_seconds=None,
            now=asyncio.get_running_loop().time(),
        )
        if lane is Lane.BATCH and not _is_free(model):
            raise EngineUnavailable(f"{model.name} leaves")
        self._manager.submit(model.manifest, request)
        try:
            while not await outcome.wait(_POLL_SECONDS):
                if lane is Lane.BATCH and not _is_free(model):
                    raise EngineUnavailable(f"{model.name} leaves")
        finally:
            self._manager.cancel(model.manifest, request)

    async def _wait_until_stored(self, model: LoadedModel, job: _Job) -> reports.Located:
        """Ask until all of a computed prompt is written, or no more of it for a time."""
        stored, changed_at = -1, time.monotonic()
        while True:
            self._prompt_cache.check_keys(job.keys)
            located = await self._locate(model, job)
            if located.stored_tokens > stored:
                stored, changed_at = located.stored_tokens, time.monotonic()
            is_late = time.monotonic() - changed_at > _STORE_SECONDS
            if located.stored_tokens >= located.storable_tokens or is_late:
                return located
            await asyncio.sleep(_POLL_SECONDS)

    async def _locate(self, model: LoadedModel, job: _Job) -> reports.Located:
        if model.state is not ModelState.READY:
            raise EngineUnavailable(f"{model.name} was unloaded")
        prompt = job.prompt
        return await model.locate(
            commands.Locate(
                id=0,
                pieces=prompt.pieces,
                tokens=prompt.tokens,
                add_special=prompt.add_special,
                principal=job.prefix.principal,
                cache_keys=job.keys,
            )
        )


class _Outcome:
    """The RequestListener of one request, of which only the end counts."""

    def __init__(self) -> None:
        self._ended = asyncio.Event()
        self._error: SpindllError | None = None

    def put_delta(self, request_id: int, delta: reports.Delta) -> None:
        """See RequestListener."""

    def put(self, request_id: int, item: RequestItem) -> None:
        """See RequestListener."""
        if isinstance(item, reports.Failed):
            self._error = from_wire(item.error)

    def end(self, request_id: int) -> None:
        """See RequestListener."""
        self._ended.set()

    async def wait(self, seconds: float) -> bool:
        """Whether the request has ended within the time; raises the error that it ended with."""
        try:
            await asyncio.wait_for(self._ended.wait(), seconds)
        except TimeoutError:
            return False
        if self._error is not None:
            raise self._error
        return True


def _is_free(model: LoadedModel) -> bool:
    """Whether no other model waits for its memory."""
    return model.state is ModelState.READY and not model.must_yield


def _note_stored(prefix: NamedPrefix, located: reports.Located) -> NamedPrefix:
    return msgspec.structs.replace(
        prefix,
        prompt_tokens=located.prompt_tokens,
        stored_tokens=located.stored_tokens,
        entries=located.names,
    )
