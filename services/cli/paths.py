"""The paths of a stack below its data directory.

DATA/run/      stack.lock (held while any process of the stack runs), stack.json, sockets
DATA/logs/     one log per service, and the supervisor's log
DATA/redis/    Redis' append-only file
DATA/redis-users/  the passwords of Redis' users, see services/shared/redis/redis_users.py
DATA/secrets/  admin.key and user.key, which the api creates
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

# sockaddr_un holds 108 bytes on Linux and 104 on macOS, including the final zero byte.
MAX_SOCKET_PATH_BYTES = 100


@dataclass(frozen=True, slots=True)
class StackPaths:
    """The paths of one data directory. Only `make_dirs` creates anything."""

    data_dir: Path

    @property
    def run_dir(self) -> Path:
        """The folder of files that exist only while the stack runs, and of the lock."""
        return self.data_dir / "run"

    @property
    def logs_dir(self) -> Path:
        """The folder of the logs."""
        return self.data_dir / "logs"

    @property
    def redis_dir(self) -> Path:
        """The folder of Redis' own files."""
        return self.data_dir / "redis"

    @property
    def redis_users_dir(self) -> Path:
        """The folder of the passwords of Redis' users; only this user may enter it."""
        return self.data_dir / "redis-users"

    @property
    def lock_file(self) -> Path:
        """The file that is locked while this directory's stack runs or is cleaned up."""
        return self.run_dir / "stack.lock"

    @property
    def state_file(self) -> Path:
        """The file in which the supervisor publishes the state of the stack."""
        return self.run_dir / "stack.json"

    @property
    def user_key(self) -> Path:
        """The file with the API key for chats."""
        return self.data_dir / "secrets" / "user.key"

    @property
    def admin_key(self) -> Path:
        """The file with the API key that may also pull and delete models."""
        return self.data_dir / "secrets" / "admin.key"

    @property
    def sockets_dir(self) -> Path:
        """The folder of the sockets: `run_dir`, or one in the temporary folder if too long."""
        longest = os.fsencode(self.run_dir / "engine.sock")
        if len(longest) <= MAX_SOCKET_PATH_BYTES:
            return self.run_dir
        name = hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"spindll-{os.getuid()}-{name}"

    @property
    def redis_socket(self) -> Path:
        """The socket of the stack's own Redis."""
        return self.sockets_dir / "redis.sock"

    @property
    def engine_socket(self) -> Path:
        """The socket of the engine."""
        return self.sockets_dir / "engine.sock"

    def log_path(self, service: str) -> Path:
        """The log file of a service."""
        return self.logs_dir / f"{service}.log"

    def make_dirs(self) -> None:
        """Create the folders; those of logs and sockets are for this user only.

        Raises PermissionError when the folder of the sockets exists and belongs to another user
        or is open to others.
        """
        for folder in (self.run_dir, self.logs_dir, self.redis_dir, self.redis_users_dir):
            folder.mkdir(parents=True, exist_ok=True)
        for folder in (self.run_dir, self.logs_dir, self.redis_users_dir):
            folder.chmod(0o700)
        sockets = self.sockets_dir
        sockets.mkdir(mode=0o700, exist_ok=True)
        info = sockets.lstat()
        if info.st_uid != os.getuid() or info.st_mode & 0o077:
            raise PermissionError(13, "belongs to another user or is open to others", str(sockets))
