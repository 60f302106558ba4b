"""The shared state of one download: its pieces, its ETag, and how it ended.

One condition guards everything here. It is notified when a piece is complete, when no write is in
flight, when the download fails and when it halts. The bytes themselves are written outside of it.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass

from services.puller.download.partial_file import PartialFile, ResumeState, boot_id
from services.puller.download.pieces import Piece, PieceTable, choose_piece_bytes
from services.puller.transport.range_response import CredentialsExpired
from services.shared.errors import PullFailed, SpindllError

Failure = SpindllError | CredentialsExpired

_MAX_RESTARTS = 3
_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class ProgressSnapshot:
    """The progress of a download. A new generation means that the file started over."""

    frontier: int
    done_bytes: int
    generation: int


class DownloadProgress:
    """The state of one download, restored from the partial file's resume state."""

    def __init__(
        self, partial: PartialFile, size_bytes: int, *, ignore_etag_changes: bool = False
    ) -> None:
        self.size_bytes = size_bytes
        self.halted = threading.Event()
        self._partial = partial
        self._ignore_etag_changes = ignore_etag_changes
        self._changed = threading.Condition()
        self._failure: Failure | None = None
        self._restarts = 0
        self._writes_in_flight = 0
        self._etag: str | None = None
        self._synced: tuple[int, ...] = ()
        self._table = self._restore()

    def _restore(self) -> PieceTable:
        state = self._partial.read_resume_state()
        if state is None or state.size_bytes != self.size_bytes:
            os.ftruncate(self._partial.fd, 0)
            os.ftruncate(self._partial.fd, self.size_bytes)
            return PieceTable(self.size_bytes, choose_piece_bytes(self.size_bytes))
        os.ftruncate(self._partial.fd, self.size_bytes)
        self._etag = state.etag
        self._synced = state.synced
        return PieceTable(self.size_bytes, state.piece_bytes, state.trusted_done)

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
    def etag(self) -> str | None:
        """The ETag of the version that the bytes belong to, if the source sent one."""
        with self._changed:
            return self._etag

    def wait_for_progress(self, known: int, *, timeout_seconds: float) -> ProgressSnapshot:
        """Wait until the frontier passes `known` or the time is over, and return the progress.

        Raises the download's failure, if there is one.
        """
        with self._changed:
            if self._table.frontier(known) <= known and self._failure is None:
                self._changed.wait(timeout_seconds)
            if self._failure is not None:
                raise self._failure
            frontier = self._table.frontier(known)
            return ProgressSnapshot(frontier, self._table.done_bytes, self._table.generation)

    def wait_for_piece(self) -> Piece | None:
        """Wait for a piece and claim it; None when the download is complete or halted."""
        with self._changed:
            while not self.halted.is_set() and not self._table.is_complete:
                if (piece := self._table.claim()) is not None:
                    return piece
                self._changed.wait(_POLL_SECONDS)
            self._changed.notify_all()
            return None

    def claim_whole_file(self) -> Piece | None:
        """Claim the only piece of a file that the source sends as a whole."""
        with self._changed:
            return self._table.claim()

    def release(self, piece: Piece) -> None:
        """Let another worker claim the piece."""
        with self._changed:
            self._table.release(piece)

    def write(self, piece: Piece, data: bytes, offset: int) -> bool:
        """Write bytes to the partial file; False when the file started over. Raises OSError."""
        # A restart waits for writes in flight: an old byte must not overwrite a new one.
        with self._changed:
            if piece.generation != self._table.generation:
                return False
            self._writes_in_flight += 1
        try:
            self._partial.write(data, offset)
        except BaseException:
            self._finish_write(piece, 0)
            raise
        return self._finish_write(piece, len(data))

    def _finish_write(self, piece: Piece, n_bytes: int) -> bool:
        with self._changed:
            self._writes_in_flight -= 1
            is_current = self._table.record_written(piece, n_bytes)
            if piece.is_complete or self._writes_in_flight == 0:
                self._changed.notify_all()
            return is_current

    def remember_etag(self, etag: str | None) -> None:
        """Keep the first ETag that the source sends."""
        with self._changed:
            self._etag = self._etag or etag

    def restart_for_new_version(self, piece: Piece, etag: str | None) -> None:
        """Start over, because the source has another version of the file.

        Raises PullFailed when the file keeps changing, unless ETag changes are ignored.
        """
        with self._changed:
            if not self._is_current_after_writes(piece):
                return
            self._restarts += 1
            if self._restarts > _MAX_RESTARTS and not self._ignore_etag_changes:
                raise PullFailed("the file at the source keeps changing")
            self._etag = None if self._restarts > _MAX_RESTARTS else etag
            self._table.reset()
            self._synced = ()

    def restart_as_whole_file(self, piece: Piece) -> bool:
        """Start over with a single piece, because the source ignores ranges.

        True when the caller should read the whole file from its response.
        """
        with self._changed:
            if not self._is_current_after_writes(piece):
                return False
            if self._table.done_bytes == 0 and len(self._table.pieces) == 1:
                piece.is_claimed = False  # the caller requested the whole file anyway
            else:
                self._table.reset(as_one=True)
                self._synced = ()
            return True

    def _is_current_after_writes(self, piece: Piece) -> bool:
        """Wait for writes in flight; False when another worker restarted the file first."""
        self._changed.wait_for(lambda: self._writes_in_flight == 0)
        return piece.generation == self._table.generation

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
            done, generation = tuple(self._table.done), self._table.generation
        self._partial.sync()
        with self._changed:
            if generation == self._table.generation:
                self._synced = done

    def save(self) -> None:
        """Write the resume state. Raises OSError."""
        with self._changed:
            state = ResumeState(
                size_bytes=self.size_bytes,
                piece_bytes=self._table.piece_bytes,
                etag=self._etag,
                boot=boot_id(),
                done=tuple(self._table.done),
                synced=self._synced,
            )
        self._partial.write_resume_state(state)
