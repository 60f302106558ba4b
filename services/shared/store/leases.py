"""Leases: a running job protects blobs that no manifest refers to yet.

A lease is a file that lists digests. Its owner holds a lock (flock) on it for as long as the owner
lives. The garbage collector respects the digests of locked files. A file that it can lock belonged
to a process that has ended, so even a `kill -9` leaves nothing that has to time out.

`add` takes the store's lock, as the garbage collector does. So when `add` returns, a blob has
either been removed already (`Blobs.has` is then False: download it) or is protected.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import uuid
from pathlib import Path
from typing import Self

from services.shared.store import durable
from services.shared.store.layout import Layout, parse_digest


class Lease:
    """The blobs that one job protects. A context manager; the lease ends with it or its process."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._path: Path | None = None
        self._fd = -1

    def __enter__(self) -> Self:
        durable.make_folder(self._layout.leases, below=self._layout.root)
        path = self._layout.leases / f"{uuid.uuid4().hex}.lease"
        with durable.locked(self._layout.lock):  # else the collector could see it unlocked
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            fcntl.flock(self._fd, fcntl.LOCK_EX)
        self._path = path
        return self

    def add(self, *digests: str) -> None:
        """Protect blobs from now on, whether or not they exist yet."""
        lines = "".join(f"{parse_digest(d)}\n" for d in digests)
        with durable.locked(self._layout.lock):
            os.write(self._fd, lines.encode())

    def __exit__(self, *_: object) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._fd)
            self._path = None


def leased_digests(layout: Layout) -> set[str]:
    """The digests of valid leases. Removes dead leases. Call it with the store's lock held."""
    leased: set[str] = set()
    if not layout.leases.is_dir():
        return leased
    for path in layout.leases.glob("*.lease"):
        # The job may have just removed it, or it is a link, which is not one of our leases.
        with contextlib.suppress(OSError):
            leased.update(_read_or_remove(path))
    return leased


def _read_or_remove(path: Path) -> set[str]:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    with os.fdopen(fd, "rb") as file:
        if _is_locked(fd):
            return {line.decode() for line in file.read().splitlines()}
        path.unlink(missing_ok=True)
        return set()


def _is_locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
