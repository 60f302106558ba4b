"""A download's file on disk: the sparse `.partial`, its lock, and the notes that outlive a kill.

The lock (flock) is on the partial itself, so the kernel lets go when its holder dies, and two jobs
of any process never write one blob. The notes say which bytes were written. After a power cut, when
the boot differs, only what had been synced counts; a wrong guess would still be caught by the digest.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from functools import lru_cache
from pathlib import Path

import msgspec
import psutil

from services.shared.structs import resolved

SCHEMA = 1


@resolved
class Notes(msgspec.Struct, frozen=True, kw_only=True):
    """What a later run needs to go on."""

    schema: int = SCHEMA
    size_bytes: int
    piece_bytes: int
    etag: str | None
    boot: str
    done: tuple[int, ...]  # written, per piece
    synced: tuple[int, ...]  # of these, safe from a power cut


class Partial:
    """An open, locked partial. Use `Partial.lock`; `close` keeps the file, `remove` does not."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd
        self._notes_path = path.with_name(f"{path.name}.json")
        self._new_notes_path = path.with_name(f"{path.name}.json.tmp")

    @staticmethod
    def lock(path: Path) -> Partial | None:
        """Open and lock it, made where missing; None while somebody else holds it."""
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                return None
            if _is_at(path, fd):
                partial = Partial(path, fd)
                partial._new_notes_path.unlink(missing_ok=True)  # of a run that was killed
                return partial
            os.close(fd)  # it was finished or removed between open and lock

    def read_notes(self) -> Notes | None:
        """The notes of an earlier run, or None where they are missing or unusable."""
        return read_notes(self.path)

    def write_notes(self, notes: Notes) -> None:
        """Replace the notes in one go."""
        self._new_notes_path.write_bytes(msgspec.json.encode(notes))
        self._new_notes_path.replace(self._notes_path)

    def write(self, data: bytes, offset: int) -> None:
        """Put bytes at an offset; any thread. OSError."""
        view = memoryview(data)
        while view:
            n = os.pwrite(self.fd, view, offset)
            view, offset = view[n:], offset + n

    def sync(self) -> None:
        """Make the bytes written so far safe from a power cut."""
        os.fsync(self.fd)

    def restart(self) -> None:
        """Forget what is there, and go on from nothing."""
        self._notes_path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Forget the download. Call before `close`, while the lock is held."""
        for path in (self._notes_path, self._new_notes_path, self.path):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let others have it. Safe to call twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def read_notes(partial: Path) -> Notes | None:
    """The notes beside a partial, whoever holds it."""
    try:
        raw = partial.with_name(f"{partial.name}.json").read_bytes()
        notes = msgspec.json.decode(raw, type=Notes)
    except (OSError, msgspec.DecodeError):
        return None
    if notes.schema != SCHEMA or notes.piece_bytes <= 0:
        return None
    return notes


def trusted(notes: Notes) -> tuple[int, ...]:
    """How many bytes of each piece are on disk for certain."""
    return notes.done if notes.boot == boot_id() else notes.synced


@lru_cache(maxsize=1)
def boot_id() -> str:
    """Differs after the machine went down."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return str(int(psutil.boot_time()))


def _is_at(path: Path, fd: int) -> bool:
    try:
        there = os.lstat(path)
    except FileNotFoundError:
        return False
    ours = os.fstat(fd)
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)
