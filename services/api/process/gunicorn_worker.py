"""The gunicorn worker, which runs uvicorn with the settings of the api, and the gunicorn logger."""

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
        "proxy_headers": False,  # access/client_address.py, for gRPC too
        "access_log": False,  # access_log.py logs more fields
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        log = logging.getLogger("uvicorn.error")
        log.propagate = True
        log.setLevel(self.log.error_log.level)
        # gunicorn kills the worker at graceful_timeout; uvicorn has to end it before that.
        self.config.timeout_graceful_shutdown = max(1, self.cfg.graceful_timeout - KILL_SECONDS)


class RootLogger(Logger):  # type: ignore[misc]  # gunicorn has no types
    """Sends gunicorn's log events to the handlers of the root logger."""

    def setup(self, cfg: Any) -> None:
        """As in the parent class, without handlers of its own."""
        super().setup(cfg)
        for log in (self.error_log, self.access_log):
            log.handlers.clear()
            log.propagate = True
