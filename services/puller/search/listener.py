"""Answers the searches of the api: hears questions on a channel, leaves each answer in a list.

Threads of the puller's main process, beside the supervisor, so that no search waits behind a
download. Two searches run at once; a question that waited for too long is dropped.
"""

from __future__ import annotations

import logging
import queue
import threading
import time

import msgspec
import redis

from services.puller.search.search import Search
from services.shared import redis_keys
from services.shared.search import SEARCH_SECONDS, SearchAnswer, SearchQuery

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
_REST_SECONDS = 1.0
_SEARCHERS = 2
_MOST_WAITING = 32


class SearchDesk:
    """`start` and `stop` it once."""

    def __init__(
        self, client: redis.Redis, search: Search, *, seconds: float = SEARCH_SECONDS
    ) -> None:
        self._redis = client
        self._search = search
        self._seconds = seconds
        self._waiting: queue.Queue[tuple[float, SearchQuery]] = queue.Queue(_MOST_WAITING)
        self._stopping = threading.Event()

    def start(self) -> None:
        """Listen. The threads are daemons: a search under way does not hold the process up."""
        for action in [self._listen] + [self._answer_on] * _SEARCHERS:
            threading.Thread(target=action, name="search", daemon=True).start()

    def stop(self) -> None:
        """Listen no more, from the next moment on."""
        self._stopping.set()

    def _listen(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._redis.pubsub(  # type: ignore[no-untyped-call]
                    ignore_subscribe_messages=True
                ) as channel:
                    channel.subscribe(redis_keys.SEARCHES)
                    while not self._stopping.is_set():
                        message = channel.get_message(timeout=_LOOK_SECONDS)
                        if message is not None:
                            self._take(message["data"])
            except redis.RedisError:
                logger.warning("redis does not answer")
                self._stopping.wait(_REST_SECONDS)

    def _take(self, raw: bytes) -> None:
        try:
            question = msgspec.json.decode(raw, type=SearchQuery)
        except msgspec.DecodeError:
            logger.warning("not a question")
            return
        if self._redis.set(
            redis_keys.search_claim(question.id), "taken", nx=True, ex=redis_keys.SEARCH_KEY_SECONDS
        ):
            try:
                self._waiting.put_nowait((time.monotonic(), question))
            except queue.Full:
                self._leave(question, SearchAnswer(failed="too many searches at once"))

    def _answer_on(self) -> None:
        while not self._stopping.is_set():
            try:
                came_at, question = self._waiting.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                continue
            seconds = came_at + self._seconds - time.monotonic()
            if seconds > 0:
                self._leave(question, self._answered(question, seconds))

    def _answered(self, question: SearchQuery, seconds: float) -> SearchAnswer:
        try:
            return self._search.answer(question, seconds=seconds)
        except Exception:  # the desk must outlive whatever a hub answers
            logger.exception("a search failed")
            return SearchAnswer(failed="the search failed for an internal reason")

    def _leave(self, question: SearchQuery, answer: SearchAnswer) -> None:
        key = redis_keys.search_answer(question.id)
        try:
            with self._redis.pipeline() as pipe:
                pipe.rpush(key, msgspec.json.encode(answer))
                pipe.expire(key, redis_keys.SEARCH_KEY_SECONDS)
                pipe.execute()
        except redis.RedisError:
            logger.warning("redis does not answer")
