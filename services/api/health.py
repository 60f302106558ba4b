"""GET /health (this process lives) and GET /ready (a request would succeed). Both need no key."""

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
class Check:
    """One thing a request needs. `missing` says what is wrong, for a person; None: all is well."""

    name: str
    missing: str | None = None
    notes: tuple[str, ...] = ()


@router.get("/health")
async def show_health() -> dict[str, str]:
    """Alive. Asks nobody."""
    return {"status": "ok", "version": __version__}


@router.get("/ready")
async def show_ready(request: Request, api: Parts) -> Response:
    """Whether a chat would succeed now; 503 and what is missing when not."""
    checks = await asyncio.gather(_redis(request), _engine(api), _models(api))
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


async def _redis(request: Request) -> Check:
    try:
        await asyncio.wait_for(request.app.state.redis.ping(), _CHECK_SECONDS)
    except (RedisError, OSError, TimeoutError):
        return Check("redis", "Redis does not answer")
    return Check("redis")


async def _engine(api: ApiParts) -> Check:
    try:
        health = await asyncio.wait_for(api.engine.health(), _CHECK_SECONDS)
    except (SpindllError, TimeoutError):
        return Check("engine", "the engine does not answer")
    problems = tuple(health.problems)
    if not health.accepting:
        return Check("engine", "the engine is stopping", problems)
    if not api.engine.is_connected:
        return Check("engine", "the engine session is being opened", problems)
    return Check("engine", notes=problems)


async def _models(api: ApiParts) -> Check:
    if not await api.catalog.models():
        return Check("models", "no model is here yet: pull one with POST /v1/pulls")
    return Check("models")
