"""The gunicorn worker and logger: uvicorn, with our manners."""

from __future__ import annotations

import logging
from typing import Any, ClassVar

from gunicorn.glogging import Logger  # type: ignore[import-untyped]
from uvicorn_worker import UvicornWorker

KILL_SECONDS = 5  # between the end of the drain time and the kill


class ApiWorker(UvicornWorker):  # type: ignore[misc]  # uvicorn_worker has no types
    """One worker: uvloop and httptools where installed, no Server header, lifespan required."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "auto",
        "http": "auto",
        "ws": "none",
        "lifespan": "on",
        "server_header": False,
        "access_log": False,  # access_log.py knows more
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        log = logging.getLogger("uvicorn.error")
        log.propagate = True
        log.setLevel(self.log.error_log.level)
        # gunicorn kills at graceful_timeout; end by ourselves before it comes to that.
        self.config.timeout_graceful_shutdown = max(1, self.cfg.graceful_timeout - KILL_SECONDS)


class RootLogger(Logger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's events go where all of this process's events go."""

    def setup(self, cfg: Any) -> None:
        """As the parent's, with no handlers of its own."""
        super().setup(cfg)
        for log in (self.error_log, self.access_log):
            log.handlers.clear()
            log.propagate = True
