"""The file of a running download on disk: sparse bytes, a lock, and a resume state beside it.

The lock (flock) is on the partial file itself, so the kernel releases it when its holder dies, and
no two jobs of any process write the same blob. The resume state lists which bytes were written.
After a reboot, which may follow a power cut, only the synced bytes count; the digest would still
detect a wrong guess.

    <blob>.partial              the bytes
    <blob>.partial.json         the resume state as of the last sync, itself synced
    <blob>.partial.live.json    the newest one; after a power cut it may be empty
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from functools import lru_cache
from pathlib import Path

import msgspec
import psutil

from services.shared.store import durable
from services.shared.store.layout import state_paths
from services.shared.structs import resolved

SCHEMA = 1


@resolved
class ResumeState(msgspec.Struct, frozen=True, kw_only=True):
    """What a later run needs to continue."""

    schema: int = SCHEMA
    size_bytes: int
    piece_bytes: int
    etag: str | None
    boot: str
    done: tuple[int, ...]  # bytes written, per piece
    synced: tuple[int, ...]  # bytes of these that survive a power cut

    @property
    def trusted_done(self) -> tuple[int, ...]:
        """How many bytes of each piece are certainly on disk."""
        return self.done if self.boot == boot_id() else self.synced


class PartialFile:
    """An open, locked partial file, made by `lock`.

    `close` keeps the file; `remove` deletes it.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd
        self._new_state_path = path.with_name(f"{path.name}.json.tmp")

    @staticmethod
    def lock(path: Path) -> PartialFile | None:
        """Open or create the file and lock it; None while another job holds the lock."""
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                return None
            if _is_at(path, fd):
                partial = PartialFile(path, fd)
                partial._new_state_path.unlink(missing_ok=True)  # left by a killed run
                return partial
            os.close(fd)  # the file was finished or removed between open and lock

    def read_resume_state(self) -> ResumeState | None:
        """The resume state of an earlier run; None if it is missing or unusable."""
        return read_resume_state(self.path)

    def write_resume_state(self, state: ResumeState, *, is_durable: bool = False) -> None:
        """Replace the newest resume state atomically, or the one that survives a power cut."""
        synced, live = state_paths(self.path)
        with self._new_state_path.open("wb") as file:
            file.write(msgspec.json.encode(state))
            if is_durable:
                file.flush()
                durable.sync(file.fileno())
        self._new_state_path.replace(synced if is_durable else live)

    def read(self, n_bytes: int, offset: int) -> bytes:
        """Read bytes that were written. A second open file would break locks on some systems."""
        return os.pread(self.fd, n_bytes, offset)

    def write(self, data: bytes, offset: int) -> None:
        """Write bytes at an offset; callable from any thread. Raises OSError."""
        view = memoryview(data)
        while view:
            n = os.pwrite(self.fd, view, offset)
            view, offset = view[n:], offset + n

    def sync(self) -> None:
        """Make the bytes written so far survive a power cut."""
        fd = os.dup(self.fd)  # the file may be closed while a slow sync runs
        try:
            durable.sync(fd)
        finally:
            os.close(fd)

    def restart(self) -> None:
        """Forget the resume state, so that the next run starts from nothing."""
        for path in state_paths(self.path):
            path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete the download. Call it before `close`, while the lock is held."""
        for path in (*state_paths(self.path), self._new_state_path, self.path):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Release the lock. Safe to call twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def read_resume_state(partial: Path) -> ResumeState | None:
    """The resume state beside a partial file, whichever job holds its lock."""
    synced, live = state_paths(partial)
    return _read_state(live) or _read_state(synced)


def _read_state(path: Path) -> ResumeState | None:
    try:
        state = msgspec.json.decode(path.read_bytes(), type=ResumeState)
    except (OSError, msgspec.DecodeError):
        return None
    if state.schema != SCHEMA or state.piece_bytes <= 0:
        return None
    return state


@lru_cache(maxsize=1)
def boot_id() -> str:
    """An id of the running boot; it changes when the machine restarts."""
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
