"""Content-addressed files: how bytes become a blob, and how many bytes its removal frees.

A blob is written as `.partial`, verified, synced and renamed; after that the store does not change
it. Writers need no lock: two with the same digest replace equal bytes with equal bytes.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import uuid
from dataclasses import dataclass
from pathlib import Path

from services.shared.errors import DigestMismatch, InvalidModelFile
from services.shared.store import durable
from services.shared.store.layout import Layout, parse_digest, state_paths
from services.shared.store.leases import Lease

_CHUNK = 4 << 20
# From linux/fs.h: share the extents of another file (btrfs, XFS, bcachefs).
_FICLONE = 0x40049409


@dataclass(frozen=True, slots=True)
class Blob:
    """A finished file of the store. `linked`: it is a hard link to a file outside the store."""

    digest: str
    size_bytes: int
    linked: bool = False


class Blobs:
    """The `blobs/` folder. Any process and any thread may use it.

    A lease protects a new blob until a manifest refers to it (`leases.py`).
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def path(self, digest: str) -> Path:
        """The path of a finished blob, whether or not it exists."""
        return self._layout.blob(digest)

    def partial_path(self, digest: str) -> Path:
        """The path that a downloader writes to; creates its folder."""
        self._make_folder()
        return self._layout.partial(digest)

    def new_partial(self) -> Path:
        """A path for bytes whose digest is not known yet; pass it to `commit`."""
        self._make_folder()
        return self._layout.blobs / f"incoming-{uuid.uuid4().hex}.partial"

    def size(self, digest: str) -> int | None:
        """The size of a finished blob in bytes, or None. A symbolic link is not a blob."""
        try:
            found = os.lstat(self._layout.blob(digest))
        except OSError:
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def has(self, digest: str, size_bytes: int) -> bool:
        """Whether the finished blob exists with this size."""
        return self.size(digest) == size_bytes

    def commit(
        self, partial: Path, *, digest: str | None = None, computed: str | None = None
    ) -> Blob:
        """Turn a partial into a blob; removes the partial and its state files.

        `digest` is the expected digest (None: accept any). `computed` is the actual digest, if the
        caller has hashed the bytes while writing them; None reads the file again. Raises
        DigestMismatch and removes the partial when the two differ.
        """
        actual = parse_digest(computed) if computed else hash_file(partial)
        if digest is not None and actual != parse_digest(digest):
            self.discard(partial)
            raise DigestMismatch("the bytes do not have the expected sha256 digest")
        # Bytes first: a name must not become durable before its bytes.
        durable.sync_file(partial)
        blob = Blob(actual, partial.stat().st_size)
        durable.move(partial, self._layout.blob(actual))
        _remove_state(partial)
        return blob

    def add_bytes(self, data: bytes) -> Blob:
        """Store bytes that are in memory."""
        partial = self.new_partial()
        partial.write_bytes(data)
        return self.commit(partial, computed=f"sha256:{hashlib.sha256(data).hexdigest()}")

    def add_file(
        self,
        source: Path,
        *,
        link: bool = True,
        digest: str | None = None,
        lease: Lease | None = None,
    ) -> Blob:
        """Store a file that stays in its place: as a hard link, else a reflink, else a copy.

        A hard link shares the bytes: deleting one name leaves the other, but a change of the file
        in place changes the blob. `digest` is the expected digest (DigestMismatch). `lease` gets
        the new file while it is hashed, and its digest before the blob appears.
        """
        source = source.resolve()
        if not source.is_file():
            raise InvalidModelFile("the path to import is not a regular file")
        partial = self.new_partial()
        if lease is not None:
            lease.add_file(partial)
        try:
            linked = link and _hard_link(source, partial)
            if not linked:
                _clone(source, partial)
            computed = hash_file(partial)
            if lease is not None:
                lease.add(computed)
            blob = self.commit(partial, digest=digest, computed=computed)
        finally:
            partial.unlink(missing_ok=True)
        return Blob(blob.digest, blob.size_bytes, linked=linked)

    def remove_partial(self, digest: str) -> int:
        """Remove the partial of a digest, unless a download holds it; the freed bytes."""
        path = self._layout.partial(digest)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return 0
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # as download/partial_file.py
            ours = os.fstat(fd)
            if not os.path.samestat(ours, path.lstat()):
                return 0  # it became a blob, and perhaps another partial has begun
            self.discard(path)
            return ours.st_blocks * 512
        except (BlockingIOError, FileNotFoundError):
            return 0
        finally:
            os.close(fd)

    def discard(self, partial: Path) -> None:
        """Remove a partial and its state files, if they exist."""
        partial.unlink(missing_ok=True)
        _remove_state(partial)

    def _make_folder(self) -> None:
        durable.make_folder(self._layout.blobs, below=self._layout.root)


def _remove_state(partial: Path) -> None:
    for path in state_paths(partial):
        path.unlink(missing_ok=True)


def hash_file(path: Path) -> str:
    """The `sha256:<hex>` digest of a file; reads it in constant memory."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def unlink_and_measure(path: Path) -> int:
    """Unlink a file; the bytes that this frees: 0 while the file has another name."""
    found = os.lstat(path)
    path.unlink()
    return found.st_size if found.st_nlink == 1 else 0


def _hard_link(source: Path, target: Path) -> bool:
    # Fails for another file system, one without hard links, or a protected file: then copy.
    try:
        os.link(source, target)
    except OSError:
        return False
    return True


def _clone(source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("xb") as writer:
        try:
            fcntl.ioctl(writer.fileno(), _FICLONE, reader.fileno())
        except OSError:
            shutil.copyfileobj(reader, writer, _CHUNK)
