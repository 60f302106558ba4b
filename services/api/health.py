"""GET /health (this process runs) and GET /ready (a request would succeed); neither needs a key.

With a valid key there is more: the version, and the problems that name models.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import msgspec
import redis.asyncio
from fastapi import APIRouter, Request, Response
from redis.exceptions import RedisError

from services import __version__
from services.api.access.principal import Principal
from services.api.clients.engine import EngineClient
from services.api.models.catalog import Catalog
from services.shared.errors import SpindllError

router = APIRouter()

_CHECK_SECONDS = 5.0
_CACHE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class ReadinessCheck:
    """The result of one check. `missing` describes the problem; None: the check passed.

    Strangers read `missing`, so it is a fixed sentence; only keys read the `notes`.
    """

    name: str
    missing: str | None = None
    notes: tuple[str, ...] = ()


class Readiness:
    """Whether a chat would succeed, checked at most once a second. Event loop only."""

    def __init__(
        self, connection: redis.asyncio.Redis, engine: EngineClient, catalog: Catalog
    ) -> None:
        self._redis = connection
        self._engine = engine
        self._catalog = catalog
        self._checks: tuple[ReadinessCheck, ...] = ()
        self._checked_at = -float("inf")
        self._checking: asyncio.Task[None] | None = None

    async def check(self) -> tuple[ReadinessCheck, ...]:
        """The checks, of which the oldest result is a second old. Requests share one run."""
        if self._checking is None:
            if time.monotonic() - self._checked_at < _CACHE_SECONDS:
                return self._checks
            self._checking = asyncio.create_task(self._run(), name="check readiness")
        # A request that is cancelled must not cancel the checks of the others.
        await asyncio.shield(self._checking)
        return self._checks

    async def _run(self) -> None:
        try:
            self._checks = tuple(
                await asyncio.gather(
                    self._check_redis(), self._check_engine(), self._check_models()
                )
            )
            self._checked_at = time.monotonic()
        finally:
            self._checking = None

    async def _check_redis(self) -> ReadinessCheck:
        try:
            await asyncio.wait_for(self._redis.ping(), _CHECK_SECONDS)
        except (RedisError, OSError, TimeoutError):
            return ReadinessCheck("redis", "Redis does not answer")
        return ReadinessCheck("redis")

    async def _check_engine(self) -> ReadinessCheck:
        try:
            health = await asyncio.wait_for(self._engine.calls.check_health(), _CHECK_SECONDS)
        except (SpindllError, TimeoutError):
            return ReadinessCheck("engine", "the engine does not answer")
        problems = tuple(health.problems)
        if not health.accepting:
            return ReadinessCheck("engine", "the engine is stopping", problems)
        if health.lacks_required_gpu:
            return ReadinessCheck("engine", "the engine requires a GPU and can use none", problems)
        if not self._engine.is_connected:
            return ReadinessCheck("engine", "the engine session is being opened", problems)
        return ReadinessCheck("engine", notes=problems)

    async def _check_models(self) -> ReadinessCheck:
        if not await self._catalog.list():
            return ReadinessCheck("models", "no model is stored yet: pull one with POST /v1/pulls")
        return ReadinessCheck("models")


@router.get("/health")
async def show_health(request: Request) -> dict[str, str]:
    """Report that this process runs, without checking anything else."""
    if not _has_key(request):
        return {"status": "ok"}
    return {"status": "ok", "version": __version__}


@router.get("/ready")
async def show_ready(request: Request) -> Response:
    """Whether a chat would succeed now; if not, 503 and what is missing."""
    readiness = request.app.state.readiness
    assert isinstance(readiness, Readiness)
    checks = await readiness.check()
    missing = [check.missing for check in checks if check.missing]
    body: dict[str, Any] = {
        "ready": not missing,
        "missing": missing,
        "checks": {check.name: check.missing or "ok" for check in checks},
    }
    if _has_key(request):
        body["problems"] = [note for check in checks for note in check.notes]
    return Response(
        msgspec.json.encode(body),
        status_code=503 if missing else 200,
        headers={"retry-after": "2"} if missing else None,
        media_type="application/json",
    )


def _has_key(request: Request) -> bool:
    return isinstance(getattr(request.state, "principal", None), Principal)
