"""One tier: a folder of entries, in RAM (tmpfs) or on a disk. All access to files is here."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from services.engine.core import (
    CacheEvent,
    CacheNotWritten,
    CacheRejected,
    CacheTier,
    CacheUsed,
    RejectReason,
)
from services.engine.kv_entry import (
    HEADER_BYTES,
    BadEntry,
    EntryHeader,
    entry_path,
    open_entry,
    read_header,
    temporary_path,
)
from services.engine.runner.kvcache.chain import Part
from services.engine.runner.kvcache.keys import DerivedKey
from services.engine.runner.kvcache.policy import name_write_error
from services.engine.runner.kvcache.sealing import FrameSealer

RETRY_SECONDS = 30.0  # a tier is left alone for so long after a failed write
_RETRY_FULL_SECONDS = 1.0  # and for so long where it holds too much: the front evicts
_COUNT_AFTER = 4  # the files are counted again when this part of the room may be used up
_MAX_REJECTED = 4096
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FileId = tuple[int, int]  # inode and time of change: another file under the same name differs


class EntryLost(Exception):
    """An entry is not there any more: it was removed, or replaced by another snapshot."""


class _TierFull(OSError):
    """The files of the tier have as many bytes as they may."""


class FolderTier:
    """The entries of one folder. Any thread; one thread writes.

    Nothing here removes an entry: the front does. Where it does not, because Redis does not answer
    or it is slow, nothing is written beyond `max_bytes`: a tmpfs takes main memory.
    """

    def __init__(
        self,
        tier: CacheTier,
        folder: str,
        events: deque[CacheEvent],
        *,
        min_free_bytes: int = 0,
        max_bytes: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tier = tier
        self._folder = folder
        self._events = events
        self._min_free_bytes = min_free_bytes
        self._max_bytes = max_bytes
        self._room = 0  # bytes that may be written before the files are counted again
        self._clock = clock
        self._retry_at = float("-inf")
        self._lock = threading.Lock()  # guards _rejected
        self._rejected: dict[str, _FileId] = {}

    @property
    def is_writable(self) -> bool:
        """Whether to try to write: not shortly after a write has failed."""
        return self._clock() >= self._retry_at

    def has(self, name: str) -> bool:
        """Whether there is an entry of this name that was not rejected."""
        try:
            stat = os.stat(entry_path(self._folder, name))  # noqa: PTH116 - half the time of Path
        except OSError:
            return False
        return self._rejected.get(name) != (stat.st_ino, stat.st_mtime_ns)

    def peek(self, name: str) -> EntryHeader | None:
        """The header of an entry, not authenticated; None where there is no entry to use."""
        if not self.has(name):
            return None
        try:
            return read_header(Path(entry_path(self._folder, name)))
        except BadEntry as error:
            self._reject(name, error.reason)
        except FileNotFoundError:
            pass
        except OSError:
            self._reject(name, "unreadable")
        return None

    def read_last_use(self, name: str) -> float:
        """When an entry was written or last used, in seconds since 1970; 0 where there is none."""
        try:
            return Path(entry_path(self._folder, name)).stat().st_mtime
        except OSError:
            return 0.0

    def mark_used(self, name: str) -> None:
        """Let the time of an entry be that of its last use."""
        _mark_used(entry_path(self._folder, name))

    def read(
        self, name: str, slot: int, key: DerivedKey, part: Part, sealer: FrameSealer
    ) -> tuple[EntryHeader, bytes | memoryview] | None:
        """Read and open an entry; None where it cannot be used.

        That is an event, unless another snapshot has replaced it since it was found.
        """
        try:
            with open_entry(Path(entry_path(self._folder, name))) as file:
                header = EntryHeader.unpack(file.read(HEADER_BYTES))
                if os.fstat(file.fileno()).st_size != header.file_bytes:
                    raise BadEntry("size")
                _check(header, slot, key, part)
                state = sealer.open(file, header, key, part.binding)
                _mark_used(file.fileno())
        except BadEntry as error:
            self._reject(name, error.reason)
            return None
        except FileNotFoundError:
            self._events.append(CacheRejected(name, self.tier, "missing"))
            return None
        except EntryLost:
            return None
        except OSError:
            self._reject(name, "unreadable")
            return None
        self._events.append(CacheUsed(name, self.tier, header.file_bytes, header.seconds))
        return header, state

    def write(self, name: str, size: int, chunks: Iterable[memoryview | bytes]) -> bool:
        """Write a file of `size` bytes; replaces one of the same name. False where it failed."""
        try:
            self._check_space(size)
            self._write(name, chunks)
        except OSError as error:
            is_full = isinstance(error, _TierFull)
            self._retry_at = self._clock() + (_RETRY_FULL_SECONDS if is_full else RETRY_SECONDS)
            self._events.append(CacheNotWritten(self.tier, name_write_error(error)))
            return False
        return True

    def read_chunks(self, name: str) -> Iterable[bytes]:
        """The bytes of an entry as they are, to copy them. Raises EntryLost."""
        try:
            with open_entry(Path(entry_path(self._folder, name))) as file:
                while chunk := file.read(1 << 20):
                    yield chunk
        except (BadEntry, OSError) as error:
            raise EntryLost from error

    def _check_space(self, size: int) -> None:
        stat = os.statvfs(self._folder)
        if stat.f_bavail * stat.f_frsize - size < self._min_free_bytes:
            raise OSError(errno.ENOSPC, "the free space is kept")
        if self._max_bytes is not None:
            if size > self._room:
                room = self._max_bytes - _count_bytes(self._folder)
                if size > room:
                    raise _TierFull(errno.ENOSPC, "the tier is full")
                self._room = max(size, room // _COUNT_AFTER)  # other runners write too
            self._room -= size

    def _write(self, name: str, chunks: Iterable[memoryview | bytes]) -> None:
        path = Path(entry_path(self._folder, name))
        path.parent.mkdir(mode=0o700, exist_ok=True)
        temporary = Path(temporary_path(self._folder, name))
        descriptor = os.open(temporary, _CREATE, 0o600)
        try:
            _lock(descriptor)
            for chunk in chunks:
                _write_all(descriptor, chunk)
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        finally:
            os.close(descriptor)

    def _reject(self, name: str, reason: RejectReason) -> None:
        """Report a bad file, and do not look at it again."""
        self._events.append(CacheRejected(name, self.tier, reason))
        with suppress(OSError), self._lock:
            stat = Path(entry_path(self._folder, name)).stat()
            if len(self._rejected) >= _MAX_REJECTED:
                self._rejected.clear()
            self._rejected[name] = (stat.st_ino, stat.st_mtime_ns)


def _count_bytes(folder: str) -> int:
    """The bytes of all files in the folders of entries."""
    size = 0
    for directory in Path(folder).glob("??"):
        with suppress(OSError), os.scandir(directory) as files:
            for file in files:
                with suppress(OSError):  # gone meanwhile
                    size += file.stat(follow_symlinks=False).st_size
    return size


def _check(header: EntryHeader, slot: int, key: DerivedKey, part: Part) -> None:
    tail_tag = key.build_tail_tag(part.content) if part.kind == "snapshot" else bytes(16)
    if (header.kind, header.slot, header.key_id) != (part.kind, slot, key.id):
        raise BadEntry("mismatch")
    if (header.tokens, header.tail_tag) != (part.tokens, tail_tag):
        if part.kind == "snapshot":
            raise EntryLost
        raise BadEntry("mismatch")


def _mark_used(file: int | str) -> None:
    """Let the time of the file be that of its last use, which decides what is deleted by age."""
    with suppress(OSError):  # a read-only disk
        now = time.time_ns()  # the system's own time of files has steps of some milliseconds
        os.utime(file, ns=(now, now))


def _lock(descriptor: int) -> None:
    """Show that the file has a living writer. Raises BlockingIOError when a sweep takes it now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return  # a file system without locks: there, the age of the file counts


def _write_all(descriptor: int, chunk: memoryview | bytes) -> None:
    rest = memoryview(chunk)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
