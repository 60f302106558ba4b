"""Remove blobs that no manifest and no running job needs.

Manifests and valid leases refer to blobs. They are read again each time, under the store's lock, so
there is no stored reference count that a crash could corrupt. A file to remove is renamed into
`trash/` under the lock, which is fast, and unlinked after it, which is slow for a large file.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path

from services.shared.store import durable
from services.shared.store.blobs import unlink_and_measure
from services.shared.store.layout import Layout, parse_blob_name
from services.shared.store.leases import read_leases
from services.shared.store.manifest import Manifest
from services.shared.store.manifests import Manifests

# An interrupted download is kept this long, so that a later pull can resume it.
PARTIAL_LIFETIME_SECONDS = 7 * 24 * 3600
# No lease covers a file while it is being written; writing one of these takes less than an hour.
TEMPORARY_LIFETIME_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class SweepResult:
    """The number of files that a sweep removed, and the bytes it freed."""

    files: int
    freed_bytes: int


class GarbageCollector:
    """Decides which files to remove, and removes them.

    Call `move_to_trash` and `move_blobs_to_trash` with the lock held, `unlink_all` without it.
    """

    def __init__(self, layout: Layout, manifests: Manifests) -> None:
        self._layout = layout
        self._manifests = manifests

    def lock(self) -> AbstractContextManager[None]:
        """The store's lock, which is held for short moments only."""
        durable.make_folder(self._layout.root, below=self._layout.root)
        return durable.locked(self._layout.lock)

    def move_to_trash(self, manifest: Manifest | None) -> list[Path]:
        """Move a manifest's view and its unneeded blobs to the trash; their new paths.

        The manifest itself must have been removed or replaced before.
        """
        if manifest is None:
            return []
        is_shared = any(other.digest == manifest.digest for other in self._manifests.all())
        views = [] if is_shared else [self._layout.view(manifest.digest)]
        return self._to_trash(views) + self.move_blobs_to_trash(
            file.digest for file in manifest.files
        )

    def move_blobs_to_trash(self, digests: Iterable[str]) -> list[Path]:
        """Move those of the blobs to the trash that nothing refers to; their new paths."""
        needed = self._manifests.references() | read_leases(self._layout).digests
        return self._to_trash([self._layout.blob(d) for d in sorted(set(digests) - needed)])

    def unlink_all(self, paths: Iterable[Path]) -> int:
        """Unlink files and folders, such as those in the trash; the bytes that this frees."""
        return sum(_remove(path) for path in paths)

    def sweep(self, *, min_age_seconds: float, keep: frozenset[str]) -> SweepResult:
        """Remove all old files that are neither referred to nor in `keep`."""
        if not self._layout.root.is_dir():
            return SweepResult(0, 0)
        with self.lock():
            protected = read_leases(self._layout)
            needed = self._manifests.references() | protected.digests
            if not any(self._manifests.paths()):
                # Perhaps the manifests are being restored: what they name must not go before.
                min_age_seconds = max(min_age_seconds, PARTIAL_LIFETIME_SECONDS)
            views = {self._layout.view(m.digest) for m in self._manifests.all()}
            unneeded = [
                *self._old_blobs(needed, min_age_seconds),
                *self._old_partials(protected.digests | keep, protected.files),
                *self._old_views(views),
            ]
            trashed = self._to_trash(unneeded)
        trashed += [p for p in _entries(self._layout.trash) if p not in set(trashed)]
        temporary = self._layout.manifests.rglob(".*.tmp")
        trashed += [p for p in temporary if _age_seconds(p) >= TEMPORARY_LIFETIME_SECONDS]
        return SweepResult(len(trashed), self.unlink_all(trashed))

    def _old_blobs(self, needed: set[str], min_age_seconds: float) -> Iterator[Path]:
        for path in _entries(self._layout.blobs):
            digest = parse_blob_name(path.name)
            is_blob = digest is not None and path.suffix == ""
            if is_blob and digest not in needed and _age_seconds(path) >= min_age_seconds:
                yield path

    def _old_partials(self, keep: set[str], keep_files: set[str]) -> Iterator[Path]:
        # A partial with a digest can be resumed, one without cannot. Its age says nothing while it
        # is being written: a hard link of an import is as old as its original.
        for path in _entries(self._layout.blobs):
            digest = parse_blob_name(path.name)
            if (digest is not None and path.suffix == "") or path.name in keep_files:
                continue
            lifetime = PARTIAL_LIFETIME_SECONDS if digest else TEMPORARY_LIFETIME_SECONDS
            if digest not in keep and _age_seconds(path) >= lifetime:
                yield path

    def _old_views(self, needed: set[Path]) -> Iterator[Path]:
        for path in _entries(self._layout.views):
            if path not in needed and _age_seconds(path) >= TEMPORARY_LIFETIME_SECONDS:
                yield path

    def _to_trash(self, paths: list[Path]) -> list[Path]:
        if not paths:
            return []
        durable.make_folder(self._layout.trash, below=self._layout.root)
        moved = []
        for path in paths:
            target = self._layout.trash / f"{uuid.uuid4().hex}-{path.name}"
            with suppress(FileNotFoundError):  # it was never created, or a person removed it
                os.rename(path, target)  # noqa: PTH104
                moved.append(target)
        for folder in {path.parent for path in paths if path.parent.is_dir()}:
            durable.sync_folder(folder)
        return moved


def _remove(path: Path) -> int:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
            return 0
        return unlink_and_measure(path)
    except FileNotFoundError:  # another process swept the trash first
        return 0


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(Path(entry.path) for entry in os.scandir(folder))
    except FileNotFoundError:
        return []


def _age_seconds(path: Path) -> float:
    try:
        return time.time() - path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0
