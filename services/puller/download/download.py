"""Download one file into its partial file: several ranges at once, hashed as they arrive.

    range workers   claim pieces front to back and write them at their offsets   range_workers.py
    this thread     hashes behind them and ends the run                          here
    saver           saves the resume state and syncs, which may take long        state_saver.py
    progress        the state that both share                                    progress.py

The resume state is saved last, however the run ends, so that the next run continues where this one
stopped. Hashing follows the frontier, while the bytes are still in the page cache.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable

from services.puller.download.partial_file import PartialFile
from services.puller.download.progress import DownloadProgress
from services.puller.download.range_workers import RangeWorkers
from services.puller.download.retry import RetryPolicy
from services.puller.download.state_saver import StateSaver
from services.puller.download.throttle import Throttle
from services.puller.transport.address import Address
from services.puller.transport.session_pool import SessionPool

_POLL_SECONDS = 0.05
_READ_BYTES = 1 << 20


class Download:
    """One run; call `run` once. `is_resumed`: bytes of an earlier run were kept."""

    def __init__(
        self,
        partial: PartialFile,
        address: Address,
        size_bytes: int,
        *,
        has_digest: bool,
        connections: int,
        sessions: SessionPool,
        retry_policy: RetryPolicy,
        throttle: Throttle,
        on_progress: Callable[[int], None],
        on_first_bytes: Callable[[int], None] | None = None,
    ) -> None:
        """Prepare a run.

        `on_progress` is called at least 20 times a second with the number of downloaded bytes; an
        exception that it raises ends the download. With `has_digest` the caller will compare the
        digest, so the bytes may come from any version that the source names. A file without a
        digest is downloaded front to back over one connection. `on_first_bytes` is called with the
        number of bytes from the start that have no hole, as it grows; it may raise too.
        """
        self._partial = partial
        self._on_progress = on_progress
        self._on_first_bytes = on_first_bytes
        self._progress = DownloadProgress(partial, size_bytes, has_digest=has_digest)
        self._workers = RangeWorkers(
            self._progress,
            address,
            connections=connections if has_digest else 1,
            sessions=sessions,
            retry_policy=retry_policy,
            throttle=throttle,
        )
        self._saver = StateSaver(self._progress)
        self.is_resumed = self._progress.done_bytes > 0

    def run(self) -> str:
        """Download what is missing and return `sha256:<hex>` of the whole file.

        Raises SourceUnavailable, PullFailed, DiskFull, CredentialsExpired, ContentChanged, or
        whatever `on_progress` raised.
        """
        self._saver.start()
        self._workers.start()
        try:
            return self._hash_as_it_arrives()
        finally:
            self._workers.stop()
            self._saver.stop()
            with contextlib.suppress(OSError):  # a full disk must not hide the first error
                self._progress.save()

    @property
    def done_bytes(self) -> int:
        """The number of bytes on disk."""
        return self._progress.done_bytes

    @property
    def wait_reason(self) -> str | None:
        """What the download waits for, as a sentence for people; None while bytes may arrive."""
        return self._progress.wait_reason

    def _hash_as_it_arrives(self) -> str:
        sha, hashed = hashlib.sha256(), 0
        while hashed < self._progress.size_bytes:
            now = self._progress.wait_for_progress(hashed, timeout_seconds=_POLL_SECONDS)
            self._on_progress(now.done_bytes)
            if now.frontier > hashed:
                data = self._partial.read(min(_READ_BYTES, now.frontier - hashed), hashed)
                sha.update(data)
                hashed += len(data)
                if self._on_first_bytes is not None:
                    self._on_first_bytes(hashed)
        return f"sha256:{sha.hexdigest()}"
