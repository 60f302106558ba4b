"""The client for searches and checks for newer versions, which the puller makes.

The api itself opens no connection outside.

The protocol over Redis is described in services/shared/puller_rpc/search.py.
"""

from __future__ import annotations

import time
from typing import cast

import msgspec
import redis.asyncio
from redis.exceptions import RedisError

from services.shared.errors import Unavailable
from services.shared.puller_rpc.search import SEARCH_SECONDS, SearchAnswer, SearchQuery
from services.shared.puller_rpc.updates import UpdateAnswer, UpdateQuery
from services.shared.redis import redis_keys

_RETRY_SECONDS = 5.0
_POLL_SECONDS = 2  # shorter than the connection's own timeout
_GRACE_SECONDS = 2.0


async def run_search(
    connection: redis.asyncio.Redis, query: SearchQuery, *, seconds: float = SEARCH_SECONDS
) -> SearchAnswer:
    """What the puller found.

    Unavailable when no puller listens, the search failed, or the answer does not come in time.
    """
    raw = await _ask(connection, query, seconds, "search")
    answer = msgspec.json.decode(raw, type=SearchAnswer)
    if answer.failed is not None:
        raise _unavailable(answer.failed)
    return answer


async def run_update_check(
    connection: redis.asyncio.Redis, query: UpdateQuery, *, seconds: float = SEARCH_SECONDS
) -> UpdateAnswer:
    """What the source of a stored model has now; Unavailable as in `run_search`."""
    raw = await _ask(connection, query, seconds, "ask for newer versions")
    answer = msgspec.json.decode(raw, type=UpdateAnswer)
    if answer.failed is not None:
        raise _unavailable(answer.failed)
    return answer


async def _ask(
    connection: redis.asyncio.Redis, query: SearchQuery | UpdateQuery, seconds: float, what: str
) -> str:
    try:
        listeners = await connection.publish(redis_keys.SEARCHES, msgspec.json.encode(query))
        if not listeners:
            raise _unavailable(f"no puller is running, and only the puller can {what}")
        raw = await _wait_for_answer(connection, query.id, seconds + _GRACE_SECONDS)
    except RedisError as error:
        raise _unavailable("the puller cannot be asked right now") from error
    if raw is None:
        raise _unavailable("the puller did not answer in time")
    return raw


async def _wait_for_answer(
    connection: redis.asyncio.Redis, query_id: str, seconds: float
) -> str | None:
    deadline = time.monotonic() + seconds
    key = redis_keys.search_answer(query_id)
    while time.monotonic() < deadline:
        found = cast("list[str] | None", await connection.blpop([key], timeout=_POLL_SECONDS))
        if found is not None:
            return found[1]
    return None


def _unavailable(message: str) -> Unavailable:
    return Unavailable(message, retry_after_seconds=_RETRY_SECONDS)
