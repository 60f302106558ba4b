"""The folder of one tier: its id and its files, which are listed and deleted here. Blocks.

    FOLDER/.tier               32 hex digits, made with the folder
    FOLDER/<2 hex>/<62 hex>    an entry (kv_entry.py)

To delete a file that is being read is harmless: its reader has it open.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from services.engine.core import CacheTier
from services.engine.kv_entry import (
    BadEntry,
    EntryHeader,
    entry_path,
    parse_entry_path,
    read_header,
    remove_stale_temporary_files,
)

_ID_FILE = ".tier"
_STALE_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class FoundEntry:
    """An entry of the folder."""

    name: str
    header: EntryHeader
    used_at: float  # seconds since 1970


class TierFolder:
    """See the module."""

    def __init__(self, path: Path, tier: CacheTier) -> None:
        """Makes the folder, readable by its owner alone. Raises OSError."""
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if tier == "ram":
            _claim(path)
        self.path = path
        self.tier = tier
        self.id = _read_or_make_id(path / _ID_FILE)

    def list_names(self) -> Iterator[str]:
        """The names of all entries; their files are not opened."""
        for directory in sorted(self.path.glob("??")):
            yield from filter(None, map(parse_entry_path, _list(directory)))

    def list_entries(self, names: Iterable[str] | None = None) -> Iterator[FoundEntry]:
        """These entries, or all; a file that is none is deleted."""
        for name in self.list_names() if names is None else names:
            path = Path(entry_path(str(self.path), name))
            try:
                yield FoundEntry(name, read_header(path), path.stat().st_mtime)
            except BadEntry:
                with contextlib.suppress(OSError):  # a folder is not ours to delete
                    path.unlink()
            except OSError:
                continue  # deleted meanwhile

    def measure(self, names: Iterable[str]) -> int:
        """The bytes of these entries; missing ones have none."""
        size = 0
        for name in names:
            with contextlib.suppress(OSError):
                size += os.stat(entry_path(str(self.path), name)).st_size  # noqa: PTH116
        return size

    def delete(self, names: Iterable[str]) -> None:
        """Delete entries; missing ones are fine."""
        for name in names:
            with contextlib.suppress(OSError):
                Path(entry_path(str(self.path), name)).unlink(missing_ok=True)

    def mark_used(self, names: Iterable[str]) -> None:
        """Let the times of these files be now, as a runner does that reads them."""
        for name in names:
            with contextlib.suppress(OSError):
                os.utime(entry_path(str(self.path), name))

    def sweep(self) -> int:
        """Remove what killed writers left; returns how many files."""
        return remove_stale_temporary_files(self.path, older_than_seconds=_STALE_SECONDS)


def _claim(path: Path) -> None:
    """See that a folder is this user's. In /dev/shm any user may make one, or a link, before us."""
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "not a folder of this user", str(path))
    path.chmod(0o700)


def _list(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []


def _read_or_make_id(path: Path) -> str:
    with contextlib.suppress(FileExistsError), path.open("x") as file:
        file.write(secrets.token_hex(16))
    found = path.read_text().strip()
    if len(found) != 32:  # cut off when it was made
        found = secrets.token_hex(16)
        path.write_text(found)
    return found
