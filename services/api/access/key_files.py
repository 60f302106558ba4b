"""The two key files of the first start, `admin.key` and `user.key`.

They are created where missing, with mode 0600, and are the only place that says which keys they
hold: a worker reads them again when they change, so that replacing a file replaces its key within a
second. A reader never sees a partial key. A key that could be guessed is not accepted.

On a Mac a key may be in the Keychain. Its file then has the hash, which is all that is needed here.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from services.api.access.keys import ApiKey, Role, build_key_id, hash_key, new_key
from services.shared.keychain import parse_reference
from services.shared.secret_files import create_secret

logger = logging.getLogger(__name__)

MIN_KEY_CHARS = 24
MIN_DIFFERENT_CHARS = 10
_READABLE_BY_OTHERS = 0o077
_CHECK_SECONDS = 1.0

# What changes when a file is written, replaced or made readable: its times, inode and size.
_Version = tuple[int, int, int, int] | None


class KeyFiles:
    """The keys of the key files, up to date within a second. Event loop only; needs no Redis."""

    def __init__(self, secrets_dir: Path) -> None:
        self._secrets_dir = secrets_dir
        self._versions: tuple[_Version, ...] | None = None
        self._keys: dict[str, ApiKey] = {}
        self._checked_at = -float("inf")

    def find(self, digest: str) -> ApiKey | None:
        """The key with this hash, or None."""
        now = time.monotonic()
        if now - self._checked_at >= _CHECK_SECONDS:
            self._checked_at = now
            self.refresh()
        return self._keys.get(digest)

    def list(self) -> list[ApiKey]:
        """The keys of the files."""
        self.refresh()
        return list(self._keys.values())

    def refresh(self) -> None:
        """Read the files again if one of them changed."""
        # The versions come before the content: a change in between is read the next time.
        versions = tuple(_read_version(_path_for(self._secrets_dir, role)) for role in Role)
        if versions == self._versions:
            return
        if self._versions is not None:
            logger.info("key files changed")
        self._keys = read_key_files(self._secrets_dir)
        self._versions = versions


def create_key_files(secrets_dir: Path) -> None:
    """Create `admin.key` and `user.key` where missing; warn about a file that others can read."""
    secrets_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    for role in Role:
        path = _path_for(secrets_dir, role)
        if path.exists():
            _warn_if_readable_by_others(path)
        elif create_secret(path, f"{new_key()}\n".encode()):
            logger.info("key created", extra={"role": role.value})


def read_key_files(secrets_dir: Path) -> dict[str, ApiKey]:
    """The keys of the files, by hash; a file without an acceptable key is skipped."""
    found = {}
    for role in Role:
        path = _path_for(secrets_dir, role)
        try:
            digest, created_at = _read_digest(path), path.stat().st_mtime
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            reason = type(error).__name__
            logger.error("key file not readable", extra={"file": path.name, "reason": reason})
            continue
        if digest is None:
            continue
        found[digest] = ApiKey(
            id=build_key_id(digest),
            hash=digest,
            role=role,
            name=role.value,
            created_at=created_at,
        )
    return found


def is_weak(key: str) -> bool:
    """Whether a key is too short or too uniform to be a random one."""
    return len(key) < MIN_KEY_CHARS or len(set(key)) < MIN_DIFFERENT_CHARS


def _read_digest(path: Path) -> str | None:
    """The hash of the key of a file; None where there is no acceptable one."""
    content = path.read_bytes()
    if (reference := parse_reference(content)) is not None:
        return reference.digest
    key = content.decode().strip()
    if key and is_weak(key):
        logger.error(
            "key not accepted: it is too easy to guess; delete the file to get a new one",
            extra={"file": path.name, "min_chars": MIN_KEY_CHARS},
        )
        return None
    return hash_key(key) if key else None


def _path_for(secrets_dir: Path, role: Role) -> Path:
    return secrets_dir / f"{role.value}.key"


def _read_version(path: Path) -> _Version:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size)


def _warn_if_readable_by_others(path: Path) -> None:
    if path.stat().st_mode & _READABLE_BY_OTHERS:
        logger.warning(
            "the key file is readable by others; chmod 600 it", extra={"file": path.name}
        )
