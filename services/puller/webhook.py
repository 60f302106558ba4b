"""Notify one address, set by the operator, when a pull job ends.

Whoever ends a job (a worker, the maintenance, the api) adds it to a list in Redis; one thread of the
puller's main process reads the list. The address comes from the settings, never from a request.
Redirects are not followed, and the response body is not read. Three attempts are made per job.
"""

from __future__ import annotations

import logging
import threading
import time

import httpx
import msgspec
import redis

from services.shared.errors import JobNotFound
from services.shared.pulls.job import PullJob
from services.shared.pulls.job_store import JobStore

logger = logging.getLogger(__name__)

_MAX_ATTEMPTS = 3
_TIMEOUT_SECONDS = 10.0
_RETRY_SECONDS = 1.0
_POLL_SECONDS = 1.0


class Webhook:
    """Sends `{"event": "pull.ended", "job": {...}}` to one receiver."""

    def __init__(self, url: str) -> None:
        self._url = url

    def send(self, job: PullJob) -> None:
        """Post the event. A receiver that fails is logged and does not affect the job."""
        body = msgspec.json.encode(
            {
                "event": "pull.ended",
                "job": {
                    "id": job.id,
                    "model": job.model,
                    "state": job.state,
                    "downloaded_bytes": job.downloaded_bytes,
                    "total_bytes": job.total_bytes,
                    "error": job.error,
                    "error_code": job.error_code,
                    "ended_at": job.ended_at,
                },
            }
        )
        for attempt in range(_MAX_ATTEMPTS):
            if self._post(body):
                return
            if attempt < _MAX_ATTEMPTS - 1:
                time.sleep(_RETRY_SECONDS)
        logger.warning("webhook was not delivered", extra={"job": job.id})

    def _post(self, body: bytes) -> bool:
        try:
            headers = {"Content-Type": "application/json"}
            with httpx.stream(
                "POST", self._url, content=body, headers=headers, timeout=_TIMEOUT_SECONDS
            ) as response:
                return response.is_success
        except (httpx.HTTPError, httpx.InvalidURL):
            return False


class WebhookSender:
    """Sends the ends of jobs in a thread of its own. Call `start` and `stop` once each."""

    def __init__(self, job_store: JobStore, webhook: Webhook) -> None:
        self._job_store = job_store
        self._webhook = webhook
        self._stopping = threading.Event()

    def start(self) -> None:
        """Start the thread. It is a daemon: a slow receiver does not delay the shutdown."""
        threading.Thread(target=self._run, name="webhook", daemon=True).start()

    def stop(self) -> None:
        """Ask the thread to end."""
        self._stopping.set()

    def send_ended(self) -> None:
        """Send all ends that have not been sent. Raises redis.RedisError."""
        while not self._stopping.is_set() and (job_id := self._job_store.take_ended()) is not None:
            try:
                job = self._job_store.get(job_id)
            except JobNotFound:  # it was deleted in the meantime
                continue
            if job.state.has_ended:
                self._webhook.send(job)

    def _run(self) -> None:
        while not self._stopping.wait(_POLL_SECONDS):
            try:
                self.send_ended()
            except redis.RedisError:
                logger.warning("redis does not answer")
