"""The configuration of gunicorn for the api; `python -m services.api` uses it too.

gunicorn -c services/api/process/gunicorn_conf.py services.api.asgi:app
"""

from __future__ import annotations

import gc
import logging
import math
import os
import socket
from typing import Any

from services.api.access.key_files import create_key_files
from services.api.process.shutdown import KILL_SECONDS
from services.api.settings import ApiSettings
from services.shared.logs import set_up_logs
from services.shared.settings import read_settings

# Otherwise gRPC's C core writes lines in its own format to stderr.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

_logger = logging.getLogger(__name__)
_settings = read_settings(ApiSettings)
set_up_logs("api", level=_settings.log_level, fmt=_settings.log_format)

_host = f"[{_settings.api_host}]" if ":" in _settings.api_host else _settings.api_host
bind = [f"{_host}:{_settings.api_port}"]
workers = _settings.worker_count
worker_class = "services.api.process.gunicorn_worker.ApiWorker"
logger_class = "services.api.process.gunicorn_worker.RootLogger"
# gunicorn and uvicorn log every step as free text; the api's own log events replace them.
loglevel = "debug" if _settings.log_level == "DEBUG" else "warning"
proc_name = "spindll-api"

# The application is imported once, before the fork: workers start quickly and share its memory. No
# connection and no thread exists before the lifespan begins (tests/api/process/test_gunicorn.py).
preload_app = True
# A worker whose event loop is blocked this long is replaced.
timeout = 60
graceful_timeout = math.ceil(_settings.drain_seconds) + KILL_SECONDS
keepalive = 75
# Heartbeats of the workers go to memory if possible: a disk may stall or be read-only.
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
control_socket_disable = True


def on_starting(_: Any) -> None:
    """Once, in the master: create the key files, and exit if the gRPC port is taken.

    Workers share that port by SO_REUSEPORT, which would share it with another stack as well.
    """
    create_key_files(_settings.secrets_dir)
    if _settings.grpc_port and not _is_free(_settings.api_host, _settings.grpc_port):
        _logger.error("the gRPC port is taken", extra={"port": _settings.grpc_port})
        raise SystemExit(1)


def pre_fork(_: Any, __: Any) -> None:
    """In the master, before each fork: exclude all imported objects from garbage collection.

    The collector writes to every object it visits, and a page that was written to is no longer
    shared between the workers.
    """
    gc.freeze()


def when_ready(_: Any) -> None:
    """Once, in the master: the port accepts connections, and workers are about to start."""
    _logger.info(
        "api listening",
        extra={"http": bind[0], "grpc_port": _settings.grpc_port, "workers": workers},
    )


def _is_free(host: str, port: int) -> bool:
    try:
        with socket.create_server((host, port), family=_family(host)):
            return True
    except OSError:
        return False


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
