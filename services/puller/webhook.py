"""Notify one address, set by the operator, when a pull job ends.

The address comes from the settings, never from a request. Redirects are not followed, and the
response body is not read. Three attempts are made per job.
"""

from __future__ import annotations

import logging
import time

import httpx
import msgspec

from services.shared.pulls.job import PullJob

logger = logging.getLogger(__name__)

_MAX_ATTEMPTS = 3
_TIMEOUT_SECONDS = 10.0
_RETRY_SECONDS = 1.0


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
        except httpx.HTTPError:
            return False
