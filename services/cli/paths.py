"""Where a stack keeps its things below one data directory, and how long a socket's path may be.

DATA/run/      stack.lock (held while anything of the stack lives), stack.json, sockets
DATA/logs/     one log a service, and the supervisor's own
DATA/redis/    the append-only file
DATA/secrets/  admin.key, user.key: made by the api
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

# sockaddr_un holds 108 bytes on Linux and 104 on macOS, the final zero included.
MAX_SOCKET_PATH_BYTES = 100


@dataclass(frozen=True, slots=True)
class StackPaths:
    """The paths of one data directory. Nothing is made here but by `make`."""

    data_dir: Path

    @property
    def run_dir(self) -> Path:
        """What exists only while the stack does."""
        return self.data_dir / "run"

    @property
    def logs_dir(self) -> Path:
        """Services' output."""
        return self.data_dir / "logs"

    @property
    def redis_dir(self) -> Path:
        """Redis' own files."""
        return self.data_dir / "redis"

    @property
    def lock(self) -> Path:
        """Locked by whoever runs, or cleans up, this directory's stack."""
        return self.run_dir / "stack.lock"

    @property
    def state(self) -> Path:
        """What the supervisor says about its stack."""
        return self.run_dir / "stack.json"

    @property
    def user_key(self) -> Path:
        """The API key for chatting."""
        return self.data_dir / "secrets" / "user.key"

    @property
    def admin_key(self) -> Path:
        """The API key that may also pull and delete."""
        return self.data_dir / "secrets" / "admin.key"

    @property
    def sockets_dir(self) -> Path:
        """`run_dir`, or a short place in the temporary folder where its path is too long."""
        longest = os.fsencode(self.run_dir / "engine.sock")
        if len(longest) <= MAX_SOCKET_PATH_BYTES:
            return self.run_dir
        name = hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"spindll-{os.getuid()}-{name}"

    @property
    def redis_socket(self) -> Path:
        """Where our own Redis listens."""
        return self.sockets_dir / "redis.sock"

    @property
    def engine_socket(self) -> Path:
        """Where the engine listens."""
        return self.sockets_dir / "engine.sock"

    def log_path(self, service: str) -> Path:
        """A service's log file."""
        return self.logs_dir / f"{service}.log"

    def make(self) -> None:
        """Make the folders, ours alone. PermissionError when the short place is someone else's."""
        for folder in (self.run_dir, self.logs_dir, self.redis_dir):
            folder.mkdir(parents=True, exist_ok=True)
        self.run_dir.chmod(0o700)
        self.logs_dir.chmod(0o700)
        sockets = self.sockets_dir
        sockets.mkdir(mode=0o700, exist_ok=True)
        info = sockets.lstat()
        if info.st_uid != os.getuid() or info.st_mode & 0o077:
            raise PermissionError(13, "belongs to somebody else", str(sockets))
