"""How long a request may take, and may keep its model loaded."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.api.access.keys import Role
from services.api.generation.requests.generation_request import GenerationRequest
from services.shared.errors import DeadlineExceeded

MAX_USER_KEEP_ALIVE_SECONDS = 3600.0


@asynccontextmanager
async def limit_time(seconds: float) -> AsyncIterator[None]:
    """Raise DeadlineExceeded in the block after this time; 0: no limit."""
    try:
        async with asyncio.timeout(seconds or None):
            yield
    except TimeoutError:
        raise DeadlineExceeded("the request's deadline passed") from None


def limit_keep_alive(seconds: float | None, role: Role) -> float | None:
    """How long a request may keep its model: a user not for ever, since that is the admin's choice.

    That a user does not unload it early either is the engine's part, which knows how long it stays.
    """
    if seconds is None or role is Role.ADMIN:
        return seconds
    return MAX_USER_KEEP_ALIVE_SECONDS if seconds < 0 else min(seconds, MAX_USER_KEEP_ALIVE_SECONDS)


def subtract_elapsed(request: GenerationRequest, started_at: float) -> GenerationRequest:
    """The request with what is left of its time; the engine counts from the arrival there."""
    if request.deadline_seconds is None:
        return request
    left = request.deadline_seconds - (time.perf_counter() - started_at)
    return dataclasses.replace(request, deadline_seconds=max(left, 0.0))
