"""Leases: a running job protects blobs that no manifest refers to yet.

A lease is a file of lines. Its owner holds a lock (flock) on it for as long as the owner lives. The
garbage collector respects the lines of locked files. A file that it can lock belonged to a process
that has ended, so even a `kill -9` leaves nothing that has to time out.

    sha256:<hex>                  a blob, or its partial file
    file <name>                   a file in `blobs/` whose digest is not known yet
    room <bytes> sha256:<hex>     disk space for a blob of this size

`add` takes the store's lock, as the garbage collector does. So when `add` returns, a blob has
either been removed already (`Blobs.has` is then False: download it) or is protected.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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

    def add_file(self, path: Path) -> None:
        """Protect a file in `blobs/` whose digest is not known yet."""
        with durable.locked(self._layout.lock):
            os.write(self._fd, f"file {path.name}\n".encode())

    def reserve(self, sizes: Mapping[str, int], check: Callable[[int, int], None]) -> None:
        """Reserve disk space for what is missing of blobs of these sizes.

        `check` gets the missing bytes of these blobs and those of all other leases. It raises to
        refuse the reservation. Reservations are made one at a time, so two cannot count on the
        same space.
        """
        lines = "".join(f"room {size} {parse_digest(d)}\n" for d, size in sizes.items())
        with durable.locked(self._layout.lock):
            others = read_leases(self._layout, excluding=self._path).room
            check(
                sum(missing_bytes(self._layout, *item) for item in sizes.items()),
                sum(
                    missing_bytes(self._layout, *item)
                    for item in others.items()
                    if item[0] not in sizes
                ),
            )
            os.write(self._fd, lines.encode())

    def __exit__(self, *_: object) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._fd)
            self._path = None


@dataclass(slots=True)
class Leased:
    """What the valid leases protect: digests, names of files in `blobs/`, and bytes by digest."""

    digests: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)
    room: dict[str, int] = field(default_factory=dict)


def read_leases(layout: Layout, *, excluding: Path | None = None) -> Leased:
    """What the valid leases but one protect. Removes dead leases.

    Call it with the store's lock held.
    """
    found = Leased()
    if not layout.leases.is_dir():
        return found
    for path in layout.leases.glob("*.lease"):
        if path == excluding:
            continue
        # The job may have just removed it, or it is a link, which is not one of our leases.
        with contextlib.suppress(OSError):
            for line in _read_or_remove(path):
                _add_line(found, line)
    return found


def missing_bytes(layout: Layout, digest: str, size_bytes: int) -> int:
    """How many bytes the disk must still give to a blob: what its partial file has not got yet."""
    for path in (layout.blob(digest), layout.partial(digest)):
        with contextlib.suppress(OSError):
            # A partial file is sparse; st_blocks counts units of 512 bytes on every system.
            return max(0, size_bytes - os.lstat(path).st_blocks * 512)
    return size_bytes


def _add_line(found: Leased, line: str) -> None:
    kind, *rest = line.split(" ")
    if kind == "file" and len(rest) == 1:
        found.files.add(rest[0])
    elif kind == "room" and len(rest) == 2 and rest[0].isdecimal():
        found.room[rest[1]] = int(rest[0])
    else:
        found.digests.add(line)


def _read_or_remove(path: Path) -> list[str]:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    with os.fdopen(fd, "rb") as file:
        if _is_locked(fd):
            return file.read().decode(errors="replace").splitlines()
        path.unlink(missing_ok=True)
        return []


def _is_locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
