"""Files with keys and passwords: a reader never sees a partial one.

Only their owner may read them, unless another mode is asked for.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from services.shared.store.durable import sync

STALE_DRAFT_SECONDS = 600.0  # whose writer has certainly ended
_DRAFT_CHARS = 16  # random, in its name


def create_secret(path: Path, data: bytes) -> bool:
    """Create the file with its bytes at once; False when another process created it first."""
    with _draft(path, data) as draft:
        try:
            # A link fails where a rename would replace: two starting processes must agree on one key.
            path.hardlink_to(draft)
        except FileExistsError:
            return False
        except OSError:
            # SMB and exFAT have no hard links. Two processes that get here at the same moment agree
            # too, because each reads the file again when the other replaces it.
            if path.exists():
                return False
            draft.replace(path)
        return True


def replace_secret(path: Path, data: bytes, *, mode: int | None = None) -> None:
    """Give the file new bytes at once, and this mode whatever the umask."""
    with _draft(path, data) as draft:
        if mode is not None:
            draft.chmod(mode)
        draft.replace(path)


def remove_drafts(folder: Path, name: str = "*", *, older_than_seconds: float = 0.0) -> None:
    """Remove the drafts that killed writers left of files with this name (a glob pattern).

    OSError: the folder cannot be changed.
    """
    for draft in folder.glob(f".{name}.{'[0-9a-f]' * _DRAFT_CHARS}"):
        with contextlib.suppress(FileNotFoundError):  # its writer lives, and has ended
            if time.time() - draft.stat().st_mtime >= older_than_seconds:
                draft.unlink()


@contextlib.contextmanager
def _draft(path: Path, data: bytes) -> Iterator[Path]:
    """A file beside `path` with these bytes on the disk; it is gone after the block."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(_DRAFT_CHARS // 2)}")
    descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            sync(file.fileno())
        yield draft
    finally:
        draft.unlink(missing_ok=True)
