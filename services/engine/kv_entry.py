"""An entry of the prompt cache as front and runner both see it: its header, its name, its folder.

    <folder>/<2 hex>/<62 hex>                  an entry; the 64 digits are its name
    <folder>/<2 hex>/<62 hex>.<16 hex>.tmp     an entry that is being written, locked by its writer

    header, 100 bytes, little-endian
        0  magic            8   b"spindlkv"
        8  format version   2
       10  kind             1   1 block, 2 snapshot
       11  slot             1   of a snapshot; 0 for a block
       12  tokens           4   that the state covers
       16  key id          16
       32  salt            16   random; the key of this file is derived with it
       48  model tag       16   first bytes of SHA-256(model digest)
       64  payload bytes    8   of the state
       72  created          8   seconds since 1970
       80  prefill seconds  4   float
       84  tail tag        16   of a snapshot; zeros for a block

The header is not secret. It is authenticated with each frame behind it, so what a header tells is
true only once a frame was opened. docs/reference/prompt-cache.md has the whole format.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import os
import re
import stat
import struct
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from services.engine.core import CacheKind, RejectReason

FORMAT_VERSION = 1
FRAME_BYTES = 1 << 20  # of plaintext; only the last frame is shorter
TAG_BYTES = 16  # behind each frame
SLOTS = 4  # snapshots of one node

_MAGIC = b"spindlkv"
_HEADER = struct.Struct("<8sHBBI16s16s16sQQf16s")
HEADER_BYTES = _HEADER.size
_MAX_SECONDS = 1e6  # that computing an entry may take: more would disorder what is evicted next
_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC  # a pipe would wait for a writer
_KINDS: tuple[CacheKind, ...] = get_args(CacheKind)
_FOLDER = re.compile(r"[0-9a-f]{2}")
_ENTRY = re.compile(r"[0-9a-f]{62}")
_TEMPORARY = re.compile(r"[0-9a-f]{62}\.[0-9a-f]{16}\.tmp")


class BadEntry(ValueError):
    """A file is not the entry that it should be."""

    def __init__(self, reason: RejectReason) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryHeader:
    """What the first bytes of an entry tell; their place and size is in the module's docstring."""

    kind: CacheKind
    slot: int = 0
    tokens: int
    key_id: bytes
    salt: bytes
    model_tag: bytes
    payload_bytes: int
    created: int  # seconds since 1970
    seconds: float  # that the computation of the tokens took
    tail_tag: bytes = bytes(16)

    @property
    def file_bytes(self) -> int:
        """The size of the whole file: an empty state has one frame too."""
        frames = max(1, -(-self.payload_bytes // FRAME_BYTES))
        return HEADER_BYTES + self.payload_bytes + frames * TAG_BYTES

    def pack(self) -> bytes:
        """The header's bytes."""
        return _HEADER.pack(
            _MAGIC,
            FORMAT_VERSION,
            _KINDS.index(self.kind) + 1,
            self.slot,
            self.tokens,
            self.key_id,
            self.salt,
            self.model_tag,
            self.payload_bytes,
            self.created,
            self.seconds,
            self.tail_tag,
        )

    @classmethod
    def unpack(cls, data: bytes) -> EntryHeader:
        """Parse a header. Raises BadEntry with "format", "version" or "size"."""
        if len(data) != HEADER_BYTES:
            raise BadEntry("size")
        magic, version, kind, slot, tokens, key_id, salt, model_tag, *rest = _HEADER.unpack(data)
        if magic != _MAGIC:
            raise BadEntry("format")
        if version != FORMAT_VERSION:
            raise BadEntry("version")
        if not 1 <= kind <= len(_KINDS) or slot >= SLOTS:
            raise BadEntry("format")
        payload_bytes, created, seconds, tail_tag = rest
        if not 0 <= seconds <= _MAX_SECONDS:  # also NaN
            raise BadEntry("format")
        return cls(
            kind=_KINDS[kind - 1],
            slot=slot,
            tokens=tokens,
            key_id=key_id,
            salt=salt,
            model_tag=model_tag,
            payload_bytes=payload_bytes,
            created=created,
            seconds=seconds,
            tail_tag=tail_tag,
        )


def open_entry(path: Path) -> io.FileIO:
    """Open an entry to read it. Raises BadEntry for a link, pipe or folder, else OSError."""
    try:
        descriptor = os.open(path, _OPEN)
    except OSError as error:
        raise (BadEntry("format") if error.errno == errno.ELOOP else error) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BadEntry("format")
    return io.FileIO(descriptor)


def read_header(path: Path) -> EntryHeader:
    """Read an entry's header. Raises BadEntry, also where the size of the file is another one."""
    with open_entry(path) as file:
        header = EntryHeader.unpack(file.read(HEADER_BYTES))
        if os.fstat(file.fileno()).st_size != header.file_bytes:
            raise BadEntry("size")
    return header


def compute_model_tag(model_digest: str) -> bytes:
    """The tag by which headers name a model."""
    return hashlib.sha256(model_digest.encode()).digest()[:16]


def entry_path(folder: str, name: str) -> str:
    """The path of the entry with this name."""
    return f"{folder}/{name[:2]}/{name[2:]}"


def parse_entry_path(path: Path) -> str | None:
    """The name of the entry at this path; None where it is not the path of an entry."""
    if not (_FOLDER.fullmatch(path.parent.name) and _ENTRY.fullmatch(path.name)):
        return None
    return path.parent.name + path.name


def temporary_path(folder: str, name: str) -> str:
    """A new path for an entry while it is written. Its writer holds a lock on it (flock)."""
    return f"{entry_path(folder, name)}.{os.urandom(8).hex()}.tmp"


def remove_stale_temporary_files(folder: Path, *, older_than_seconds: float) -> int:
    """Remove what killed writers left in a folder of entries; returns how many files.

    A file that its writer still holds is kept. Where the file system has no locks, only files that
    are older than this are removed.
    """
    removed = 0
    for directory in folder.glob("??"):
        if _FOLDER.fullmatch(directory.name):
            for path in directory.glob("*.tmp"):
                if _TEMPORARY.fullmatch(path.name) and _is_stale(path, older_than_seconds):
                    with suppress(OSError):
                        path.unlink()
                        removed += 1
    return removed


def _is_stale(path: Path, older_than_seconds: float) -> bool:
    try:
        descriptor = os.open(path, _OPEN)
    except OSError:
        return False  # gone meanwhile, or not ours
    try:
        age = time.time() - os.fstat(descriptor).st_mtime
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return age > older_than_seconds
    finally:
        os.close(descriptor)
    return True
