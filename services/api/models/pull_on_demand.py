"""Resolves the model of a request, and starts its download where the policy allows that.

SPINDLL_PULL_ON_DEMAND is the policy: `off`, `admin` (or true; requests with the admin key) or
`everyone`. Only models of the Ollama registry and of the Hugging Face hub are downloaded, because a
generation request must not be able to send the puller to another host. A pull of the same model
that failed or was cancelled in the last ten minutes is not started again: the response reports it.
The requests of an API key that is not the admin's start at most 20 downloads in an hour.
"""

from __future__ import annotations

import logging
import time
from typing import Literal

from services.api.access.keys import Role
from services.api.access.principal import Principal
from services.api.clients.pulls import PullClient
from services.api.models.catalog import Catalog, build_loading_error
from services.shared.errors import InvalidModelName, ModelNotFound
from services.shared.model_name import HUB_HOST, OLLAMA_HOST, ModelName, Source
from services.shared.pulls.job import JobState, PullJob
from services.shared.store.manifest import Manifest

logger = logging.getLogger(__name__)

PullPolicy = Literal["off", "admin", "everyone"]

RETRY_AFTER_FAILURE_SECONDS = 600.0
MAX_STARTED_PER_HOUR = 20
_HOSTS = {Source.OLLAMA: OLLAMA_HOST, Source.HUB: HUB_HOST}


class PullOnDemand:
    """Resolves the models of generation requests."""

    def __init__(self, catalog: Catalog, pulls: PullClient, policy: PullPolicy) -> None:
        self._catalog = catalog
        self._pulls = pulls
        self._policy = policy

    async def resolve(self, text: str, principal: Principal) -> Manifest:
        """The stored model; may start a download when there is none.

        ModelLoading while the model is being downloaded; ModelNotFound, InvalidModelName.
        """
        try:
            return await self._catalog.resolve(text)
        except ModelNotFound as error:
            name = parse_pullable_name(text) if may_pull(self._policy, principal.role) else None
            if name is None:
                raise
            job = await self._find_or_start(name, principal, error)
            raise build_loading_error(text, job) from None

    async def _find_or_start(
        self, name: str, principal: Principal, not_found: ModelNotFound
    ) -> PullJob:
        last = await self._pulls.list(states=(), model=name, limit=1)
        if last and has_just_failed(last[0], now=time.time()):
            raise ModelNotFound(
                f"{not_found.message}; {_describe_end(last[0])}",
                param=not_found.param,
                details=not_found.details,
            )
        # Each unknown name becomes a job that is kept for weeks: a client must not fill Redis.
        if principal.role is not Role.ADMIN:
            started = await self._pulls.count_on_demand(principal.id)
            if started > MAX_STARTED_PER_HOUR:
                raise ModelNotFound(
                    f"{not_found.message}; its download was not started, because this API key has"
                    f" started {MAX_STARTED_PER_HOUR} in an hour",
                    param=not_found.param,
                    details=not_found.details,
                )
        job, is_new = await self._pulls.start(
            name, priority=0, format=None, sha256=None, idempotency=None
        )
        if is_new:
            logger.info("pull started on demand", extra={"job": job.id, "model": name})
        return job


def may_pull(policy: PullPolicy, role: Role) -> bool:
    """Whether a request with this role may start a download."""
    return policy == "everyone" or (policy == "admin" and role is Role.ADMIN)


def parse_pullable_name(text: str) -> str | None:
    """The canonical name if it refers to the Ollama registry or the hub, else None."""
    try:
        name = ModelName.parse(text)
    except InvalidModelName:
        return None
    return str(name) if name.host == _HOSTS.get(name.source) else None


def has_just_failed(job: PullJob, *, now: float) -> bool:
    """Whether a job failed or was cancelled less than RETRY_AFTER_FAILURE_SECONDS ago."""
    is_recent = job.ended_at is not None and now - job.ended_at < RETRY_AFTER_FAILURE_SECONDS
    return is_recent and job.state in (JobState.FAILED, JobState.CANCELLED)


def _describe_end(job: PullJob) -> str:
    if job.state is JobState.CANCELLED:
        return "its download was cancelled"
    return f"its download failed: {job.error}"
