"""The HTTP server of one worker: uvicorn, with the limits of http_limits.py."""

from __future__ import annotations

import math
import socket
from typing import Any

import uvicorn
from fastapi import FastAPI

from services.api.process.http_limits import HttpTimeouts, build_http_protocol
from services.api.process.shutdown import LAST_WORDS_SECONDS, Shutdown
from services.api.settings import ApiSettings

UVICORN_OPTIONS: dict[str, Any] = {
    "loop": "auto",
    "ws": "none",
    "lifespan": "on",
    "server_header": False,
    "proxy_headers": False,  # access/client_address.py, for gRPC too
    "access_log": False,  # access_log.py logs more fields
}


class ApiServer(uvicorn.Server):
    """uvicorn's server of an application of `create_app`."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        settings, shutdown = app.state.settings, app.state.shutdown
        assert isinstance(settings, ApiSettings)
        assert isinstance(shutdown, Shutdown)
        config.app = app
        config.http = build_http_protocol(
            HttpTimeouts(
                receive_seconds=settings.receive_timeout_seconds,
                client_seconds=settings.client_timeout_seconds,
            )
        )
        # What still runs then has had its error event, and its client does not read it.
        config.timeout_graceful_shutdown = math.ceil(settings.drain_seconds) + LAST_WORDS_SECONDS
        self._shutdown = shutdown
        super().__init__(config)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop gRPC at the same moment as HTTP, then wait for running answers."""
        self._shutdown.begin()
        await super().shutdown(sockets)
