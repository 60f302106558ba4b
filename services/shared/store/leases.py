"""How a running job keeps blobs that no manifest names yet.

A lease is a file listing digests, locked (flock) by its owner for as long as the owner lives. The
collector honours the digests of locked files; a file it can lock itself belonged to a process that
is gone, so a `kill -9` leaves nothing behind that has to time out.

Adding a digest takes the store's short lock, as collecting does. So after `add` returns, the blob
is either gone already (`Blobs.has` says so, download it) or safe.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

from services.shared.store import durable
from services.shared.store.layout import Layout, parse_digest


class Lease:
    """One job's claim. A context manager; leaving it, or dying, gives the claim up."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._path: Path | None = None
        self._fd = -1

    def __enter__(self) -> Self:
        durable.make_folder(self._layout.leases, below=self._layout.root)
        path = self._layout.leases / f"{uuid.uuid4().hex}.lease"
        with durable.locked(self._layout.lock):  # or a collector finds it before it is locked
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            fcntl.flock(self._fd, fcntl.LOCK_EX)
        self._path = path
        return self

    def add(self, *digests: str) -> None:
        """Protect blobs from now on, whether or not they are here already."""
        lines = "".join(f"{parse_digest(d)}\n" for d in digests)
        with durable.locked(self._layout.lock):
            os.write(self._fd, lines.encode())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._fd)
            self._path = None


def leased_digests(layout: Layout) -> set[str]:
    """What living jobs claim; removes the files of dead ones. Call with the store's lock held."""
    claimed: set[str] = set()
    if not layout.leases.is_dir():
        return claimed
    for path in layout.leases.glob("*.lease"):
        # Gone meanwhile (its job ended), or a link that is none of ours.
        with contextlib.suppress(OSError):
            claimed.update(_claim(path))
    return claimed


def _claim(path: Path) -> set[str]:
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
