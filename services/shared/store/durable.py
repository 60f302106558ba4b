"""File changes that survive a power cut.

A file's bytes are synced, then `os.replace` gives it its name, then the folder is synced. So a name
never refers to bytes that a power cut could still lose.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from services.shared.errors import InvalidModelFile


def make_folder(path: Path, *, below: Path) -> None:
    """Create `path` and its missing parents under `below`, durably.

    Raises InvalidModelFile when one of them is a link, which would redirect our writes.
    """
    if path == below:
        path.mkdir(parents=True, exist_ok=True)
        return
    make_folder(path.parent, below=below)
    if path.is_symlink():
        raise InvalidModelFile("a folder of the store is a link")
    path.mkdir(exist_ok=True)
    # Sync even if it existed: another process may have just created it and not synced it yet.
    sync_folder(path.parent)


def sync(fd: int) -> None:
    """Make the bytes of an open file durable.

    On macOS, fsync leaves them in the cache of the drive; F_FULLFSYNC does not. A file system that
    lacks it gets the fsync.
    """
    full_sync = getattr(fcntl, "F_FULLFSYNC", None)
    if full_sync is not None:
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, full_sync)
            return
    os.fsync(fd)


def sync_folder(path: Path) -> None:
    """Make the folder's entries durable: created, renamed and removed names.

    Some network and virtual file systems cannot sync a folder (EINVAL): there a name is as durable
    as they make it.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(fd)


def sync_file(path: Path) -> None:
    """Make a file's bytes durable, whichever process wrote them."""
    fd = os.open(path, os.O_RDONLY)
    try:
        sync(fd)
    finally:
        os.close(fd)


def temporary_name(path: Path) -> Path:
    """A name beside `path` that readers ignore; `sweep` removes the file if its writer died."""
    return path.with_name(f".{uuid.uuid4().hex}.tmp")


def write_beside(path: Path, data: bytes) -> Path:
    """Write a synced temporary file in `path`'s folder, to be moved to `path`."""
    temporary = temporary_name(path)
    with temporary.open("xb") as file:
        file.write(data)
        file.flush()
        sync(file.fileno())
    return temporary


def move(source: Path, target: Path) -> None:
    """Rename a file within one file system, durably; replaces the target."""
    os.replace(source, target)  # noqa: PTH105  the crash test counts os calls
    sync_folder(target.parent)


def move_folder(source: Path, target: Path) -> None:
    """Rename a folder durably; does nothing when the target exists and is not empty."""
    try:
        os.rename(source, target)  # noqa: PTH104
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return
    sync_folder(target.parent)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an advisory lock on a file, against other processes and other threads.

    The kernel releases it when the holder dies, so a lock cannot become stale.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
