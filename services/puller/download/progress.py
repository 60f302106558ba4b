"""What is known of one file while several threads fetch it: the pieces, the ETag, how it ends.

Everything here is guarded by the book's one condition, which is notified when a piece is complete,
when the download fails, and when it halts. The bytes themselves are written outside of it.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass

from services.puller.download.partial_file import Notes, Partial, boot_id, trusted
from services.puller.download.pieces import Piece, PieceTable, piece_bytes_for
from services.puller.transport.range_response import AccessExpired
from services.shared.errors import PullFailed, SpindllError

Failure = SpindllError | AccessExpired

_MAX_RESTARTS = 3
_LOOK_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Standing:
    """How far it is. A new generation means that the file started over from nothing."""

    frontier: int
    done_bytes: int
    generation: int


class Book:
    """The book of one download, begun from the partial's notes."""

    def __init__(
        self, partial: Partial, size_bytes: int, *, ignore_etag_changes: bool = False
    ) -> None:
        self.size_bytes = size_bytes
        self.halted = threading.Event()
        self._partial = partial
        self._ignore_etag_changes = ignore_etag_changes
        self._changed = threading.Condition()
        self._failure: Failure | None = None
        self._restarts = 0
        self._writing = 0
        self._etag: str | None = None
        self._synced: tuple[int, ...] = ()
        self._table = self._restored()

    def _restored(self) -> PieceTable:
        notes = self._partial.read_notes()
        if notes is None or notes.size_bytes != self.size_bytes:
            os.ftruncate(self._partial.fd, 0)
            os.ftruncate(self._partial.fd, self.size_bytes)
            return PieceTable(self.size_bytes, piece_bytes_for(self.size_bytes))
        os.ftruncate(self._partial.fd, self.size_bytes)
        self._etag = notes.etag
        self._synced = notes.synced
        return PieceTable(self.size_bytes, notes.piece_bytes, trusted(notes))

    @property
    def n_missing(self) -> int:
        """How many pieces are not complete."""
        with self._changed:
            return sum(not piece.is_complete for piece in self._table.pieces)

    @property
    def done_bytes(self) -> int:
        """Bytes that are there."""
        with self._changed:
            return self._table.done_bytes

    @property
    def etag(self) -> str | None:
        """The version of the file that the bytes are of, where the source tells."""
        with self._changed:
            return self._etag

    def await_more(self, known: int, *, seconds: float) -> Standing:
        """How far it is, once the frontier passed `known` or the time is over; raises the failure
        when there is one."""
        with self._changed:
            if self._table.frontier(known) <= known and self._failure is None:
                self._changed.wait(seconds)
            if self._failure is not None:
                raise self._failure
            frontier = self._table.frontier(known)
            return Standing(frontier, self._table.done_bytes, self._table.generation)

    def next_piece(self) -> Piece | None:
        """A piece for the calling fetcher, once there is one; None when there will be none."""
        with self._changed:
            while not self.halted.is_set() and not self._table.is_complete:
                if (piece := self._table.claim()) is not None:
                    return piece
                self._changed.wait(_LOOK_SECONDS)
            self._changed.notify_all()
            return None

    def claim_whole(self) -> Piece | None:
        """The one piece of a file that comes as a whole."""
        with self._changed:
            return self._table.claim()

    def give_back(self, piece: Piece) -> None:
        """Somebody else may go on with it."""
        with self._changed:
            self._table.give_back(piece)

    def write(self, piece: Piece, data: bytes, offset: int) -> bool:
        """Put bytes into the partial; False when the file started over meanwhile. OSError."""
        # A restart waits for writes under way: an old byte must not land on top of a new one.
        with self._changed:
            if piece.generation != self._table.generation:
                return False
            self._writing += 1
        try:
            self._partial.write(data, offset)
        except BaseException:
            self._wrote(piece, 0)
            raise
        return self._wrote(piece, len(data))

    def _wrote(self, piece: Piece, n_bytes: int) -> bool:
        with self._changed:
            self._writing -= 1
            is_current = self._table.wrote(piece, n_bytes)
            if piece.is_complete or self._writing == 0:
                self._changed.notify_all()
            return is_current

    def learn_etag(self, etag: str | None) -> None:
        """The first answer's ETag is the file's."""
        with self._changed:
            self._etag = self._etag or etag

    def start_over_changed(self, piece: Piece, etag: str | None) -> None:
        """Another version of the file came: what is there counts no more. PullFailed when that
        happens again and again and nothing else could tell the right one."""
        with self._changed:
            if not self._may_restart(piece):
                return
            self._restarts += 1
            if self._restarts > _MAX_RESTARTS and not self._ignore_etag_changes:
                raise PullFailed("the file at the source keeps changing")
            self._etag = None if self._restarts > _MAX_RESTARTS else etag
            self._table.reset()
            self._synced = ()

    def start_over_whole(self, piece: Piece) -> bool:
        """The source sends the file from its start only; whether the caller is the one to take it."""
        with self._changed:
            if not self._may_restart(piece):
                return False
            if self._table.done_bytes == 0 and len(self._table.pieces) == 1:
                piece.is_claimed = False  # it asked for the whole anyway
            else:
                self._table.reset(as_one=True)
                self._synced = ()
            return True

    def _may_restart(self, piece: Piece) -> bool:
        self._changed.wait_for(lambda: self._writing == 0)
        return piece.generation == self._table.generation  # else another one found out first

    def fail(self, error: Failure) -> None:
        """End the download; the first failure counts."""
        with self._changed:
            self._failure = self._failure or error
        self.halt()

    def halt(self) -> None:
        """No more pieces, no more waiting."""
        self.halted.set()
        with self._changed:
            self._changed.notify_all()

    def sync(self) -> None:
        """Make what is there safe from a power cut, and remember how much that is."""
        with self._changed:
            done, generation = tuple(self._table.done), self._table.generation
        self._partial.sync()
        with self._changed:
            if generation == self._table.generation:
                self._synced = done

    def save(self) -> None:
        """Write the notes that a later run begins from. OSError."""
        with self._changed:
            notes = Notes(
                size_bytes=self.size_bytes,
                piece_bytes=self._table.piece_bytes,
                etag=self._etag,
                boot=boot_id(),
                done=tuple(self._table.done),
                synced=self._synced,
            )
        self._partial.write_notes(notes)
