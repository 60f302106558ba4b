"""Tell one address, chosen by the operator, that a pull job ended.

Only the settings name the address, no request does. Redirects are not followed, the answer is not
read, and a receiver that fails three times is left alone.
"""

from __future__ import annotations

import logging
import time

import httpx
import msgspec

from services.shared.pulls.job import PullJob

logger = logging.getLogger(__name__)

_TRIES = 3
_TIMEOUT_SECONDS = 10.0
_BETWEEN_SECONDS = 1.0


class Webhook:
    """One receiver of `{"event": "pull.ended", "job": {...}}`."""

    def __init__(self, url: str) -> None:
        self._url = url

    def send(self, job: PullJob) -> None:
        """Post it; never raises, for the job's end does not depend on it."""
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
        for attempt in range(_TRIES):
            if self._post(body):
                return
            if attempt < _TRIES - 1:
                time.sleep(_BETWEEN_SECONDS)
        logger.warning("webhook was not delivered", extra={"job": job.id})

    def _post(self, body: bytes) -> bool:
        try:
            headers = {"Content-Type": "application/json"}
            with httpx.stream(
                "POST", self._url, content=body, headers=headers, timeout=_TIMEOUT_SECONDS
            ) as answer:
                return answer.is_success
        except httpx.HTTPError:
            return False
