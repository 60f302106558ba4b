"""From the name in a request to a stored model, starting its download where that is allowed.

SPINDLL_PULL_ON_DEMAND says who may: `off` nobody, `admin` (or true) requests with the admin's key,
`everyone`. Whoever may, names only what the Ollama registry or the hub would have: a request to
chat must not be able to send the puller to any other host. A pull of the same model that failed or
was cancelled a short while ago is not started again: its end is the answer.
"""

from __future__ import annotations

import logging
import time
from typing import Literal

from services.api.access.keys import Role
from services.api.clients.pulls import PullQueue
from services.api.middleware.authentication import Principal
from services.api.models.catalog import Catalog, loading_error
from services.shared.errors import InvalidModelName, ModelNotFound
from services.shared.model_name import HUB_HOST, OLLAMA_HOST, ModelName, Source
from services.shared.pulls.job import JobState, PullJob
from services.shared.store.manifest import Manifest

logger = logging.getLogger(__name__)

Policy = Literal["off", "admin", "everyone"]

RETRY_AFTER_FAILURE_SECONDS = 600.0
_HOSTS = {Source.OLLAMA: OLLAMA_HOST, Source.HUB: HUB_HOST}


class OnDemand:
    """What routes resolve the model of a request with."""

    def __init__(self, catalog: Catalog, pulls: PullQueue, policy: Policy) -> None:
        self._catalog = catalog
        self._pulls = pulls
        self._policy = policy

    async def resolve(self, text: str, principal: Principal) -> Manifest:
        """The model. ModelLoading while it is on its way, which asking may have begun;
        ModelNotFound, InvalidModelName."""
        try:
            return await self._catalog.resolve(text)
        except ModelNotFound as error:
            name = pullable(text) if may_pull(self._policy, principal.role) else None
            if name is None:
                raise
            job = await self._job(name, error)
            raise loading_error(text, job) from None

    async def _job(self, name: str, not_found: ModelNotFound) -> PullJob:
        last = await self._pulls.list(states=(), model=name, limit=1)
        if last and ended_badly(last[0], now=time.time()):
            raise ModelNotFound(
                f"{not_found.message}; {_end(last[0])}",
                param=not_found.param,
                details=not_found.details,
            )
        job, is_new = await self._pulls.start(
            name, priority=0, format=None, sha256=None, idempotency=None
        )
        if is_new:
            logger.info("pull on demand", extra={"job": job.id, "model": name})
        return job


def may_pull(policy: Policy, role: Role) -> bool:
    """Whether a request of this role may start a download."""
    return policy == "everyone" or (policy == "admin" and role is Role.ADMIN)


def pullable(text: str) -> str | None:
    """The canonical name, if the registry or the hub could have it."""
    try:
        name = ModelName.parse(text)
    except InvalidModelName:
        return None
    return str(name) if name.host == _HOSTS.get(name.source) else None


def ended_badly(job: PullJob, *, now: float) -> bool:
    """Whether a job failed, or was cancelled, so lately that another would be in vain."""
    is_lately = job.ended_at is not None and now - job.ended_at < RETRY_AFTER_FAILURE_SECONDS
    return is_lately and job.state in (JobState.FAILED, JobState.CANCELLED)


def _end(job: PullJob) -> str:
    if job.state is JobState.CANCELLED:
        return "its download was cancelled"
    return f"its download failed: {job.error}"
