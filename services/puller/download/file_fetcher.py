"""Bring one file of a listing into the store.

1  The blob is in the store already: nothing to do.
2  Another job holds the partial file: report its progress, then check again.
3  Otherwise: download and verify it. A resumed file with a wrong digest or header is downloaded
   once more from the start, because the bytes of the earlier run may be the wrong ones. So is a
   file without a digest that changed at the source.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from services.puller.download.disk_space import require_free_space
from services.puller.download.download import Download
from services.puller.download.head_check import HeadCheck
from services.puller.download.partial_file import PartialFile, read_resume_state
from services.puller.download.retry import RetryPolicy
from services.puller.download.throttle import Throttle
from services.puller.job_control import JobControl
from services.puller.sources.base import RemoteFile
from services.puller.transport.range_response import ContentChanged
from services.puller.transport.session_pool import SessionPool
from services.shared.errors import DigestMismatch, DiskFull, InvalidModelFile, PullFailed
from services.shared.store.blobs import Blobs
from services.shared.store.layout import Layout
from services.shared.store.leases import missing_bytes
from services.shared.store.manifest import FileRole, StoredFile

_POLL_SECONDS = 0.2
_DISK_CHECK_SECONDS = 1.0
_MAX_RESTARTS = 3


@dataclass(frozen=True, slots=True)
class FileFetcher:
    """Downloads files into one store. `reserve_bytes` of the disk stay free."""

    layout: Layout
    blobs: Blobs
    connections: int
    retry_policy: RetryPolicy
    throttle: Throttle
    reserve_bytes: int

    def fetch(self, file: RemoteFile, control: JobControl, sessions: SessionPool) -> StoredFile:
        """Return the file, complete and verified, in the store.

        Raises DigestMismatch, InvalidModelFile, DiskFull, SourceUnavailable, PullFailed,
        CredentialsExpired, or Interrupted when the job should stop.
        """
        digest = file.download_digest
        partial = self._lock_partial(file, digest, control)
        if partial is None:
            control.set_downloaded(file.path, file.size_bytes)
            return StoredFile(
                role=file.role, path=file.path, digest=digest, size_bytes=file.size_bytes
            )
        try:
            return self._download(file, partial, control, sessions)
        finally:
            partial.close()

    def downloaded_bytes(self, file: RemoteFile) -> int:
        """How many bytes of a file are on disk, in a blob or in a partial file."""
        digest = file.download_digest
        if self.blobs.has(digest, file.size_bytes):
            return file.size_bytes
        return min(_partial_bytes(self.blobs.partial_path(digest)), file.size_bytes)

    def _lock_partial(
        self, file: RemoteFile, digest: str, control: JobControl
    ) -> PartialFile | None:
        """Lock the partial file; None when the blob is in the store, perhaps after a wait."""
        path = self.blobs.partial_path(digest)
        while not self.blobs.has(digest, file.size_bytes):  # 1
            partial = PartialFile.lock(path)
            if partial is not None:
                if not self.blobs.has(digest, file.size_bytes):
                    return partial
                partial.remove()  # another job finished the blob between the two checks
                partial.close()
                break
            control.raise_if_interrupted()  # 2
            control.set_note("another job downloads the same file")
            control.set_downloaded(file.path, _partial_bytes(path))
            control.interrupted.wait(_POLL_SECONDS)
        control.set_note(None)
        return None

    def _download(
        self, file: RemoteFile, partial: PartialFile, control: JobControl, sessions: SessionPool
    ) -> StoredFile:
        restarts = 0
        while True:  # 3
            download = self._start(file, partial, control, sessions)
            try:
                computed = self._run(download, file, partial, control)
            except ContentChanged as error:
                partial.restart()
                restarts += 1
                if restarts > _MAX_RESTARTS:
                    raise PullFailed("the file at the source keeps changing") from error
                continue
            except InvalidModelFile:
                partial.restart()
                if download.is_resumed:  # the bytes of the earlier run may be the wrong ones
                    continue
                partial.remove()  # it never becomes usable
                raise
            if _is_correct(file, computed, partial):
                break
            partial.restart()
            if not download.is_resumed:
                partial.remove()
                raise DigestMismatch(
                    "digest mismatch: the downloaded bytes do not have the announced digest"
                )
        blob = self.blobs.commit(partial.path, digest=file.digest, computed=computed)
        return StoredFile(
            role=file.role, path=file.path, digest=blob.digest, size_bytes=blob.size_bytes
        )

    def _start(
        self, file: RemoteFile, partial: PartialFile, control: JobControl, sessions: SessionPool
    ) -> Download:
        def on_progress(done_bytes: int) -> None:
            report(done_bytes, download.wait_reason)

        report = self._progress_callback(file, control)
        download = Download(
            partial,
            file.address,
            file.size_bytes,
            has_digest=file.digest is not None or file.git_oid is not None,
            connections=self.connections,
            sessions=sessions,
            retry_policy=self.retry_policy,
            throttle=self.throttle,
            on_progress=on_progress,
            on_first_bytes=_build_head_check(file, partial.path),
        )
        return download

    def _run(
        self, download: Download, file: RemoteFile, partial: PartialFile, control: JobControl
    ) -> str:
        try:
            return download.run()
        except DiskFull as error:
            # When a write filled the disk, free space is worth more than a partial download. (A
            # full quota is not reported as `written`: it harms no other job.)
            if error.details.get("written"):
                partial.remove()
            raise
        finally:
            control.set_downloaded(file.path, download.done_bytes)

    def _progress_callback(
        self, file: RemoteFile, control: JobControl
    ) -> Callable[[int, str | None], None]:
        check_disk_at, digest = time.monotonic(), file.download_digest

        def on_progress(done_bytes: int, wait_reason: str | None) -> None:
            nonlocal check_disk_at
            control.raise_if_interrupted()
            control.set_downloaded(file.path, done_bytes)
            if time.monotonic() >= check_disk_at:
                check_disk_at = time.monotonic() + _DISK_CHECK_SECONDS
                control.set_note(self.throttle.wait_reason or wait_reason)
                # Other downloads have their own reservations; this finds other programs.
                require_free_space(
                    self.layout.root,
                    missing_bytes=missing_bytes(self.layout, digest, file.size_bytes),
                    reserve_bytes=self.reserve_bytes,
                )

        return on_progress


def _partial_bytes(path: Path) -> int:
    state = read_resume_state(path)
    return sum(state.done) if state else 0


def _build_head_check(file: RemoteFile, path: Path) -> Callable[[int], None] | None:
    if file.role is FileRole.MODEL and file.path.lower().endswith(".gguf"):
        return HeadCheck(path, file.size_bytes, parts=file.parts).look
    return None


def _is_correct(file: RemoteFile, computed: str, partial: PartialFile) -> bool:
    if file.digest is not None:
        return computed == file.digest
    return file.git_oid is None or compute_git_oid(partial.path, file.size_bytes) == file.git_oid


def compute_git_oid(path: Path, size_bytes: int) -> str:
    """The object id that git gives to a file: the SHA-1 of a header and the content."""
    sha = hashlib.sha1(f"blob {size_bytes}\0".encode(), usedforsecurity=False)
    with path.open("rb") as reader:
        while data := reader.read(1 << 20):
            sha.update(data)
    return sha.hexdigest()
