"""GET /health (this process runs) and GET /ready (a request would succeed); neither needs a key."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import msgspec
from fastapi import APIRouter, Request, Response
from redis.exceptions import RedisError

from services import __version__
from services.api.dependencies import ApiParts, Parts
from services.shared.errors import SpindllError

router = APIRouter()

_CHECK_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class ReadinessCheck:
    """The result of one check. `missing` describes the problem; None: the check passed."""

    name: str
    missing: str | None = None
    notes: tuple[str, ...] = ()


@router.get("/health")
async def show_health() -> dict[str, str]:
    """Report that this process runs, without checking anything else."""
    return {"status": "ok", "version": __version__}


@router.get("/ready")
async def show_ready(request: Request, api: Parts) -> Response:
    """Whether a chat would succeed now; if not, 503 and what is missing."""
    checks = await asyncio.gather(_check_redis(request), _check_engine(api), _check_models(api))
    missing = [check.missing for check in checks if check.missing]
    body = {
        "ready": not missing,
        "missing": missing,
        "checks": {check.name: check.missing or "ok" for check in checks},
        "problems": [note for check in checks for note in check.notes],
    }
    return Response(
        msgspec.json.encode(body),
        status_code=503 if missing else 200,
        headers={"retry-after": "2"} if missing else None,
        media_type="application/json",
    )


async def _check_redis(request: Request) -> ReadinessCheck:
    try:
        await asyncio.wait_for(request.app.state.redis.ping(), _CHECK_SECONDS)
    except (RedisError, OSError, TimeoutError):
        return ReadinessCheck("redis", "Redis does not answer")
    return ReadinessCheck("redis")


async def _check_engine(api: ApiParts) -> ReadinessCheck:
    try:
        health = await asyncio.wait_for(api.engine.check_health(), _CHECK_SECONDS)
    except (SpindllError, TimeoutError):
        return ReadinessCheck("engine", "the engine does not answer")
    problems = tuple(health.problems)
    if not health.accepting:
        return ReadinessCheck("engine", "the engine is stopping", problems)
    if not api.engine.is_connected:
        return ReadinessCheck("engine", "the engine session is being opened", problems)
    return ReadinessCheck("engine", notes=problems)


async def _check_models(api: ApiParts) -> ReadinessCheck:
    if not await api.catalog.list():
        return ReadinessCheck("models", "no model is stored yet: pull one with POST /v1/pulls")
    return ReadinessCheck("models")
