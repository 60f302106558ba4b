"""File changes that survive a power cut, and in which order they become durable.

A name appears by `os.replace` of a file whose bytes were synced before, and the folder is synced
after: at no moment does a name point at bytes that could still be lost.
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
    """Create `path` and its missing parents under `below`, each entry durable.

    InvalidModelFile where one of them is a link: it would take our writes somewhere else.
    """
    if path == below:
        path.mkdir(parents=True, exist_ok=True)
        return
    make_folder(path.parent, below=below)
    if path.is_symlink():
        raise InvalidModelFile("a folder of the store is a link")
    path.mkdir(exist_ok=True)
    # Also where it was there: another process may have made it a moment ago and not synced yet.
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make the folder's own entries durable (created, renamed and removed names)."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_file(path: Path) -> None:
    """Make a file's bytes durable, whoever wrote them."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def temporary_name(path: Path) -> Path:
    """A name beside `path` that no reader looks at; `sweep` removes it when its maker died."""
    return path.with_name(f".{uuid.uuid4().hex}.tmp")


def write_beside(path: Path, data: bytes) -> Path:
    """Write a synced temporary file in `path`'s folder, to be moved over it."""
    temporary = temporary_name(path)
    with temporary.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return temporary


def move(source: Path, target: Path) -> None:
    """Rename within one file system, durably; replaces the target."""
    os.replace(source, target)  # noqa: PTH105  the crash test counts os calls
    sync_folder(target.parent)


def move_folder(source: Path, target: Path) -> None:
    """Rename a folder durably, unless an equal one was there first."""
    try:
        os.rename(source, target)  # noqa: PTH104
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return
    sync_folder(target.parent)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an advisory lock on a file, against other processes and other threads alike.

    The kernel lets go when the holder dies, so there is no stale lock.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
