"""The shared state of one download: its pieces, its version, and how it ended.

One condition guards everything here. It is notified when a piece is complete, when the download
fails and when it halts. The bytes themselves are written outside of it: a claimed piece has one
writer.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass

from services.puller.download.partial_file import PartialFile, ResumeState, boot_id
from services.puller.download.pieces import Piece, PieceTable, choose_piece_bytes
from services.puller.transport.range_response import ContentChanged, CredentialsExpired
from services.shared.errors import SpindllError

Failure = SpindllError | CredentialsExpired | ContentChanged

_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class ProgressSnapshot:
    """The progress of a download."""

    frontier: int
    done_bytes: int


class DownloadProgress:
    """The state of one download, restored from the partial file's resume state.

    A file without a digest is resumed only when the source names its version (`validator`): only
    then can the next response be known to continue the same bytes.
    """

    def __init__(self, partial: PartialFile, size_bytes: int, *, has_digest: bool) -> None:
        self.size_bytes = size_bytes
        self.halted = threading.Event()
        self.wait_reason: str | None = None  # what the range workers wait for, for people
        self._partial = partial
        self._has_digest = has_digest
        self._changed = threading.Condition()
        self._failure: Failure | None = None
        self._whole_reader: int | None = None
        self._validator: str | None = None
        self._synced: tuple[int, ...] = ()
        self._table = self._restore()

    def _restore(self) -> PieceTable:
        state = self._partial.read_resume_state()
        if state is None or state.size_bytes != self.size_bytes or not self._may_resume(state):
            os.ftruncate(self._partial.fd, 0)
            os.ftruncate(self._partial.fd, self.size_bytes)
            return PieceTable(self.size_bytes, choose_piece_bytes(self.size_bytes))
        os.ftruncate(self._partial.fd, self.size_bytes)
        self._validator = None if self._has_digest else state.etag
        self._synced = state.synced
        return PieceTable(self.size_bytes, state.piece_bytes, state.trusted_done)

    def _may_resume(self, state: ResumeState) -> bool:
        return self._has_digest or state.etag is not None

    @property
    def incomplete_count(self) -> int:
        """The number of incomplete pieces."""
        with self._changed:
            return sum(not piece.is_complete for piece in self._table.pieces)

    @property
    def done_bytes(self) -> int:
        """The number of bytes on disk."""
        with self._changed:
            return self._table.done_bytes

    @property
    def is_complete(self) -> bool:
        """Whether every byte is on disk."""
        with self._changed:
            return self._table.is_complete

    @property
    def validator(self) -> str | None:
        """The ETag or date of the version that the bytes belong to, of a file without a digest."""
        with self._changed:
            return self._validator

    def wait_for_progress(self, known: int, *, timeout_seconds: float) -> ProgressSnapshot:
        """Wait until the frontier passes `known` or the time is over, and return the progress.

        Raises the download's failure, if there is one.
        """
        with self._changed:
            if self._table.frontier(known) <= known and self._failure is None:
                self._changed.wait(timeout_seconds)
            if self._failure is not None:
                raise self._failure
            return ProgressSnapshot(self._table.frontier(known), self._table.done_bytes)

    def wait_for_pieces(self, max_bytes: int, *, connections: int) -> list[Piece]:
        """Wait for free pieces and claim them; empty when the download is complete or halted."""
        with self._changed:
            while not self.halted.is_set() and not self._table.is_complete:
                if self._whole_reader in (None, threading.get_ident()):
                    pieces = self._table.claim(max_bytes, connections=connections)
                    if pieces:
                        return pieces
                self._changed.wait(_POLL_SECONDS)
            self._changed.notify_all()
            return []

    def claim_after(self, piece: Piece) -> Piece | None:
        """Claim the next free piece of a response that holds the rest of the file, if any."""
        with self._changed:
            return self._table.claim_after(piece)

    def release(self, pieces: Iterable[Piece]) -> None:
        """Let other workers claim the pieces."""
        with self._changed:
            self._table.release(pieces)

    def begin_whole_body(self) -> bool:
        """Become the only worker of a source that ignores ranges; False when another one is."""
        with self._changed:
            if self._whole_reader in (None, threading.get_ident()):
                self._whole_reader = threading.get_ident()
                return True
            return False

    def end_whole_body(self) -> None:
        """Let all workers continue: the source has honoured a range, or the reader has stopped."""
        with self._changed:
            if self._whole_reader == threading.get_ident():
                self._whole_reader = None
                self._changed.notify_all()

    def write(self, piece: Piece, data: bytes, offset: int) -> None:
        """Write bytes of a claimed piece to the partial file. Raises OSError."""
        self._partial.write(data, offset)
        with self._changed:
            self._table.record_written(piece, len(data))
            if piece.is_complete:
                self._changed.notify_all()

    def remember_validator(self, validator: str | None) -> None:
        """Keep the first version that the source names, unless the digest decides."""
        if self._has_digest:
            return
        with self._changed:
            self._validator = self._validator or validator

    def fail(self, error: Failure) -> None:
        """End the download with an error; the first one counts."""
        with self._changed:
            self._failure = self._failure or error
        self.halt()

    def halt(self) -> None:
        """Hand out no more pieces, and wake every thread that waits."""
        self.halted.set()
        with self._changed:
            self._changed.notify_all()

    def sync(self) -> None:
        """Make the bytes on disk survive a power cut, and remember which ones do."""
        with self._changed:
            done = tuple(self._table.done)
        self._partial.sync()
        with self._changed:
            self._synced = done

    def save(self, *, is_durable: bool = False) -> None:
        """Write the resume state, for a power cut or for the end of this process only.

        Raises OSError.
        """
        with self._changed:
            state = ResumeState(
                size_bytes=self.size_bytes,
                piece_bytes=self._table.piece_bytes,
                etag=self._validator,
                boot=boot_id(),
                done=tuple(self._table.done),
                synced=self._synced,
            )
        self._partial.write_resume_state(state, is_durable=is_durable)
