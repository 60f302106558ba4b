"""The two key files of the first start, `admin.key` and `user.key`.

They are created where missing, with mode 0600. A reader never sees a partial key, and processes
that start at the same time agree on one key.
"""

from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path

from services.api.access.keys import ApiKey, Role, hash_key

logger = logging.getLogger(__name__)

_KEY_BYTES = 32
_READABLE_BY_OTHERS = 0o077


def load_key_files(secrets_dir: Path) -> dict[str, ApiKey]:
    """Create the key files where missing, then read them: their keys, by hash."""
    create_key_files(secrets_dir)
    return read_key_files(secrets_dir)


def create_key_files(secrets_dir: Path) -> None:
    """Create `admin.key` and `user.key` where missing; warn about a file that others can read."""
    secrets_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    for role in Role:
        path = _path_for(secrets_dir, role)
        if path.exists():
            _warn_if_readable_by_others(path)
        elif _create(path, f"sk-{secrets.token_urlsafe(_KEY_BYTES)}\n"):
            logger.info("key created", extra={"role": role.value})


def read_key_files(secrets_dir: Path) -> dict[str, ApiKey]:
    """The keys of the files, by hash; a missing or empty file is skipped."""
    found = {}
    for role in Role:
        path = _path_for(secrets_dir, role)
        try:
            key, created_at = path.read_text().strip(), path.stat().st_mtime
        except FileNotFoundError:
            continue
        if key:
            digest = hash_key(key)
            found[digest] = ApiKey(
                id=f"key_{digest[:12]}",
                hash=digest,
                role=role,
                name=role.value,
                created_at=created_at,
                from_file=True,
            )
    return found


def _path_for(secrets_dir: Path, role: Role) -> Path:
    return secrets_dir / f"{role.value}.key"


def _create(path: Path, text: str) -> bool:
    """Create the file with its text at once; False when another process created it first."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        # A link fails where a rename would replace: two starting processes must agree on one key.
        path.hardlink_to(draft)
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    return True


def _warn_if_readable_by_others(path: Path) -> None:
    if path.stat().st_mode & _READABLE_BY_OTHERS:
        logger.warning(
            "the key file is readable by others; chmod 600 it", extra={"file": path.name}
        )
