"""Answer the searches and the checks for newer versions that the api asks for.

Queries arrive on a Redis channel, answers go to Redis lists.

The threads run in the puller's main process, beside the worker pool, so that no search waits for a
download. Two searches run at once. A query that waited for too long is dropped.
"""

from __future__ import annotations

import logging
import queue
import threading
import time

import msgspec
import redis

from services.puller.search.search import ModelSearch
from services.puller.search.update_check import UpdateCheck
from services.shared.puller_rpc.search import SEARCH_SECONDS, SearchAnswer, SearchQuery
from services.shared.puller_rpc.updates import UpdateAnswer, UpdateQuery
from services.shared.redis import redis_keys

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
_RECONNECT_SECONDS = 1.0
_SEARCH_THREADS = 2
_MAX_QUEUED = 32

_Query = SearchQuery | UpdateQuery
_Answer = SearchAnswer | UpdateAnswer


class SearchListener:
    """Call `start` and `stop` once each."""

    def __init__(
        self,
        client: redis.Redis,
        search: ModelSearch,
        updates: UpdateCheck,
        *,
        seconds: float = SEARCH_SECONDS,
    ) -> None:
        self._redis = client
        self._search = search
        self._updates = updates
        self._seconds = seconds
        self._waiting: queue.Queue[tuple[float, _Query]] = queue.Queue(_MAX_QUEUED)
        self._stopping = threading.Event()

    def start(self) -> None:
        """Start the threads. They are daemons: a running search does not delay the shutdown."""
        for action in [self._listen] + [self._answer_queries] * _SEARCH_THREADS:
            threading.Thread(target=action, name="search", daemon=True).start()

    def stop(self) -> None:
        """Ask the threads to end; a running search is completed first."""
        self._stopping.set()

    def _listen(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._redis.pubsub(  # type: ignore[no-untyped-call]
                    ignore_subscribe_messages=True
                ) as channel:
                    channel.subscribe(redis_keys.SEARCHES)
                    while not self._stopping.is_set():
                        message = channel.get_message(timeout=_POLL_SECONDS)
                        if message is not None:
                            self._accept(message["data"])
            except redis.RedisError:
                logger.warning("redis does not answer")
                self._stopping.wait(_RECONNECT_SECONDS)

    def _accept(self, raw: bytes) -> None:
        try:
            query = msgspec.json.decode(raw, type=_Query)
        except msgspec.DecodeError:
            logger.warning("search query is malformed")
            return
        if self._redis.set(
            redis_keys.search_claim(query.id), "taken", nx=True, ex=redis_keys.SEARCH_KEY_SECONDS
        ):
            try:
                self._waiting.put_nowait((time.monotonic(), query))
            except queue.Full:
                self._send(query, _fail(query, "too many searches at once"))

    def _answer_queries(self) -> None:
        while not self._stopping.is_set():
            try:
                received_at, query = self._waiting.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            seconds = received_at + self._seconds - time.monotonic()
            if seconds > 0:
                self._send(query, self._answer(query, seconds))

    def _answer(self, query: _Query, seconds: float) -> _Answer:
        try:
            if isinstance(query, UpdateQuery):
                return self._updates.answer(query)
            return self._search.answer(query, seconds=seconds)
        except Exception:  # the listener must survive whatever a hub answers
            logger.exception("a search failed")
            return _fail(query, "the search failed for an internal reason")

    def _send(self, query: _Query, answer: _Answer) -> None:
        key = redis_keys.search_answer(query.id)
        try:
            with self._redis.pipeline() as pipe:
                pipe.rpush(key, msgspec.json.encode(answer))
                pipe.expire(key, redis_keys.SEARCH_KEY_SECONDS)
                pipe.execute()
        except redis.RedisError:
            logger.warning("redis does not answer")


def _fail(query: _Query, reason: str) -> _Answer:
    kind = UpdateAnswer if isinstance(query, UpdateQuery) else SearchAnswer
    return kind(failed=reason)
