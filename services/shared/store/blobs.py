"""Content-addressed files: how bytes become a blob, and how many bytes a blob gives back.

A blob is written as `.partial`, verified, synced and renamed; from then on it never changes.
Writers need no lock: two that bring the same digest replace equal bytes by equal bytes.
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
from services.shared.store.layout import Layout, parse_digest
from services.shared.store.leases import Lease

_CHUNK = 4 << 20
# linux/fs.h: share the extents of another file (btrfs, XFS, bcachefs).
_FICLONE = 0x40049409


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes that are in the store. `linked`: they are also somebody else's file (hard link)."""

    digest: str
    size_bytes: int
    linked: bool = False


class Blobs:
    """The `blobs/` folder. Any process, any thread; see `leases.py` for who protects a new blob
    until a manifest names it."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def path(self, digest: str) -> Path:
        """Where the finished bytes are, or will be."""
        return self._layout.blob(digest)

    def partial_path(self, digest: str) -> Path:
        """Where a downloader writes; its folder exists afterwards."""
        self._make_folder()
        return self._layout.partial(digest)

    def state_path(self, digest: str) -> Path:
        """A downloader's own notes beside the partial."""
        self._make_folder()
        return self._layout.partial_state(digest)

    def new_partial(self) -> Path:
        """A partial for bytes whose digest is known only at the end; give it to `commit`."""
        self._make_folder()
        return self._layout.blobs / f"incoming-{uuid.uuid4().hex}.partial"

    def size(self, digest: str) -> int | None:
        """The size in bytes of a finished blob, or None. A link in its place is no blob."""
        try:
            found = os.lstat(self._layout.blob(digest))
        except OSError:
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def has(self, digest: str, size_bytes: int) -> bool:
        """Whether the finished blob is here, whole."""
        return self.size(digest) == size_bytes

    def commit(
        self, partial: Path, *, digest: str | None = None, computed: str | None = None
    ) -> Blob:
        """Turn a partial into a blob; it and its state file are gone afterwards.

        `digest` is what the bytes must have (None: whatever they have). `computed` is the digest
        the caller hashed while writing sequentially; None reads the file once more.
        DigestMismatch removes the partial: its bytes are of no use.
        """
        actual = parse_digest(computed) if computed else hash_file(partial)
        if digest is not None and actual != parse_digest(digest):
            self.discard(partial)
            raise DigestMismatch("the bytes do not have the promised sha256 digest")
        # Bytes first: a name must never become durable before what it stands for.
        durable.sync_file(partial)
        blob = Blob(actual, partial.stat().st_size)
        durable.move(partial, self._layout.blob(actual))
        partial.with_name(f"{partial.name}.json").unlink(missing_ok=True)
        return blob

    def add_bytes(self, data: bytes) -> Blob:
        """Store a small thing held in memory."""
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
        """Store a file that stays where it is: hard link, else reflink, else copy.

        A hard link shares the bytes: deleting one name leaves the other, but who changes the file
        in place changes the blob. `digest` is what its owner promised (DigestMismatch); `lease`
        gets the digest before the blob appears.
        """
        source = source.resolve()
        if not source.is_file():
            raise InvalidModelFile("what should be imported is not a regular file")
        partial = self.new_partial()
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

    def discard(self, partial: Path) -> None:
        """Forget a partial and its state. One that is gone already is fine."""
        partial.unlink(missing_ok=True)
        partial.with_name(f"{partial.name}.json").unlink(missing_ok=True)

    def _make_folder(self) -> None:
        durable.make_folder(self._layout.blobs, below=self._layout.root)


def hash_file(path: Path) -> str:
    """`sha256:<hex>` of a file, in constant memory."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def unlink_and_measure(path: Path) -> int:
    """Remove a blob and answer the bytes the file system gets back: none while another name has
    them."""
    found = os.lstat(path)
    path.unlink()
    return found.st_size if found.st_nlink == 1 else 0


def _hard_link(source: Path, target: Path) -> bool:
    # Another file system, a file system without links, or a protected file: then copy.
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
