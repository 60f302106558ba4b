"""Fetch one file into its partial: several ranges at once, hashed while they arrive.

    fetchers   take pieces front to back, write them at their offsets        fetchers.py
    caller     hashes behind them, keeps the notes, decides when it is over  here
    book       what both know                                                book.py

Whatever ends a download, the notes are written last, so that the next run goes on where this one
stopped. Hashing follows the frontier, while the bytes are still in the page cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable

from services.puller.download.partial_file import Partial
from services.puller.download.progress import Book
from services.puller.download.range_workers import Fetchers
from services.puller.download.retry import Limits
from services.puller.download.throttle import Pace
from services.puller.transport.http_client import Address

_LOOK_SECONDS = 0.05
_NOTES_SECONDS = 0.5
_SYNC_SECONDS = 30.0
_READ_BYTES = 1 << 20


class Download:
    """One run. `run` is called once; `is_resumed` tells whether bytes of an earlier run counted."""

    def __init__(
        self,
        partial: Partial,
        address: Address,
        size_bytes: int,
        *,
        limits: Limits,
        pace: Pace,
        watch: Callable[[int], None],
        ignore_etag_changes: bool = False,
    ) -> None:
        """`watch` is called at least 20 times a second with the bytes that are there; what it
        raises ends the download. `ignore_etag_changes`: there is a digest to decide."""
        self._partial = partial
        self._watch = watch
        self._book = Book(partial, size_bytes, ignore_etag_changes=ignore_etag_changes)
        self._fetchers = Fetchers(self._book, address, limits, pace)
        self._notes = _Due(_NOTES_SECONDS)
        self._sync = _Due(_SYNC_SECONDS)
        self.is_resumed = self._book.done_bytes > 0

    def run(self) -> str:
        """Fetch what is missing; `sha256:<hex>` of the whole. Raises SourceUnavailable, PullFailed,
        DiskFull, AccessExpired, or what `watch` raised."""
        self._fetchers.start()
        try:
            return self._hash_behind()
        finally:
            self._fetchers.stop()
            with contextlib.suppress(OSError):  # a full disk must not hide why we stop
                self._book.save()

    def _hash_behind(self) -> str:
        sha, hashed, generation = hashlib.sha256(), 0, 0
        buffer = memoryview(bytearray(min(_READ_BYTES, self._book.size_bytes)))
        with self._partial.path.open("rb", buffering=0) as reader:
            while hashed < self._book.size_bytes:
                standing = self._book.await_more(hashed, seconds=_LOOK_SECONDS)
                self._watch(standing.done_bytes)
                if standing.generation != generation:
                    sha, hashed, generation = hashlib.sha256(), 0, standing.generation
                    reader.seek(0)
                if standing.frontier > hashed:
                    n = reader.readinto(buffer[: standing.frontier - hashed])
                    sha.update(buffer[:n])
                    hashed += n
                self._keep()
        return f"sha256:{sha.hexdigest()}"

    def _keep(self) -> None:
        if self._sync.is_due():
            self._book.sync()
        if self._notes.is_due():
            self._book.save()


class _Due:
    """True once every so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._at = time.monotonic() + seconds

    def is_due(self) -> bool:
        now = time.monotonic()
        if now < self._at:
            return False
        self._at = now + self._seconds
        return True
