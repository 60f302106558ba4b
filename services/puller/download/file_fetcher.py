"""Bring one file of a listing into the store: found there, waited for, or downloaded and verified.

1  the blob is there: nothing to do
2  another job holds its partial: watch that one, then look again
3  download; a resumed file with the wrong digest is fetched once more from the start, because the
   bytes of the earlier run may be what is wrong
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from services.puller.download.disk_space import require_room
from services.puller.download.download import Download
from services.puller.download.partial_file import Partial, read_notes
from services.puller.download.retry import Limits
from services.puller.download.throttle import Pace
from services.puller.job_control import JobControl
from services.puller.sources.base import RemoteFile
from services.shared.errors import DigestMismatch, DiskFull
from services.shared.store.blobs import Blobs
from services.shared.store.manifest import StoredFile

_WAIT_SECONDS = 0.2
_SPACE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Fetcher:
    """How this puller downloads. `reserve_bytes` of the disk are never filled."""

    blobs: Blobs
    limits: Limits
    pace: Pace
    reserve_bytes: int

    def fetch(self, file: RemoteFile, control: JobControl) -> StoredFile:
        """The file, whole and verified, in the store.

        DigestMismatch, DiskFull, SourceUnavailable, PullFailed; Interrupted from the control.
        """
        digest = file.download_digest
        partial = self._own_partial(file, digest, control)
        if partial is None:
            control.set_done(file.path, file.size_bytes)
            return StoredFile(
                role=file.role, path=file.path, digest=digest, size_bytes=file.size_bytes
            )
        try:
            return self._download(file, partial, control)
        finally:
            partial.close()

    def downloaded_bytes(self, file: RemoteFile) -> int:
        """How many bytes of a file the store has, in a blob or in a partial file."""
        digest = file.download_digest
        if self.blobs.has(digest, file.size_bytes):
            return file.size_bytes
        return min(_partial_bytes(self.blobs.partial_path(digest)), file.size_bytes)

    def _own_partial(self, file: RemoteFile, digest: str, control: JobControl) -> Partial | None:
        path = self.blobs.partial_path(digest)
        while not self.blobs.has(digest, file.size_bytes):  # 1
            partial = Partial.lock(path)
            if partial is not None:
                if not self.blobs.has(digest, file.size_bytes):
                    return partial
                partial.remove()  # finished by somebody else between our two looks
                partial.close()
                break
            control.check()  # 2
            control.set_note("another job downloads the same file")
            control.set_done(file.path, _partial_bytes(path))
            control.interrupted.wait(_WAIT_SECONDS)
        control.set_note(None)
        return None

    def _download(self, file: RemoteFile, partial: Partial, control: JobControl) -> StoredFile:
        while True:  # 3
            download = Download(
                partial,
                file.address,
                file.size_bytes,
                limits=self.limits,
                pace=self.pace,
                watch=self._watch(file, partial.path.parent, control),
                ignore_etag_changes=file.digest is not None,
            )
            computed = self._run(download, partial)
            if _is_right(file, computed, partial):
                break
            partial.restart()
            if not download.is_resumed:
                partial.remove()
                raise DigestMismatch(
                    "digest mismatch: the downloaded bytes are not the promised ones"
                )
        blob = self.blobs.commit(partial.path, digest=file.digest, computed=computed)
        return StoredFile(
            role=file.role, path=file.path, digest=blob.digest, size_bytes=blob.size_bytes
        )

    def _run(self, download: Download, partial: Partial) -> str:
        try:
            return download.run()
        except DiskFull as error:
            # When the disk really is full, the room is worth more than the bytes.
            if error.details.get("written"):
                partial.remove()
            raise

    def _watch(self, file: RemoteFile, folder: Path, control: JobControl) -> Callable[[int], None]:
        look_at = time.monotonic()

        def watch(done_bytes: int) -> None:
            nonlocal look_at
            control.check()
            control.set_done(file.path, done_bytes)
            if time.monotonic() >= look_at:
                look_at = time.monotonic() + _SPACE_SECONDS
                control.set_note(self.pace.waits_for)
                require_room(
                    folder,
                    missing_bytes=file.size_bytes - done_bytes,
                    reserve_bytes=self.reserve_bytes,
                )

        return watch


def _partial_bytes(path: Path) -> int:
    notes = read_notes(path)
    return sum(notes.done) if notes else 0


def _is_right(file: RemoteFile, computed: str, partial: Partial) -> bool:
    if file.digest is not None:
        return computed == file.digest
    return file.git_oid is None or _git_oid(partial.path, file.size_bytes) == file.git_oid


def _git_oid(path: Path, size_bytes: int) -> str:
    # The object name of git: sha1 over a header and the content.
    sha = hashlib.sha1(f"blob {size_bytes}\0".encode(), usedforsecurity=False)
    with path.open("rb") as reader:
        while data := reader.read(1 << 20):
            sha.update(data)
    return sha.hexdigest()
