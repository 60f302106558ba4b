"""The gunicorn worker, which runs uvicorn with the settings of the api, and the gunicorn logger."""

from __future__ import annotations

import logging
import sys
from typing import Any, ClassVar

from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped]
from gunicorn.glogging import Logger  # type: ignore[import-untyped]
from uvicorn_worker import UvicornWorker

from services.api.process.http_server import UVICORN_OPTIONS, ApiServer


class ApiWorker(UvicornWorker):  # type: ignore[misc]  # uvicorn_worker has no types
    """One worker: uvloop where installed, httptools with limits, lifespan required."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = UVICORN_OPTIONS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        log = logging.getLogger("uvicorn.error")
        log.propagate = True
        log.setLevel(self.log.error_log.level)

    async def _serve(self) -> None:
        """As in the parent class, with the server of the api."""
        server = ApiServer(self.config, self.wsgi)
        self._install_sigquit_handler()
        await server.serve(sockets=self.sockets)
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)


class RootLogger(Logger):  # type: ignore[misc]  # gunicorn has no types
    """Sends gunicorn's log events to the handlers of the root logger."""

    def setup(self, cfg: Any) -> None:
        """As in the parent class, without handlers of its own."""
        super().setup(cfg)
        for log in (self.error_log, self.access_log):
            log.handlers.clear()
            log.propagate = True
