"""Which bytes of a file are on disk, and which piece to fetch next.

Pure: no file, no socket, no clock.

    piece       0          1          2          3
             |##########|######....|##........|..........|
             [0, frontier)         hashed behind the range workers, while still in the page cache
                        [frontier, )  claimed in order, so the holes stay close to the frontier

Pieces are claimed front to back. `reset` starts the file over and begins a new generation;
`record_written` refuses bytes for a piece of an older generation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MIN_PIECE_BYTES = 16 << 20
MAX_PIECES = 1024


@dataclass(slots=True)
class Piece:
    """Bytes [start, start + size) of the file, of which the first `done` are on disk."""

    index: int
    start: int
    size: int
    generation: int
    done: int = 0
    is_claimed: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether all of its bytes are on disk."""
        return self.done == self.size


def choose_piece_bytes(size_bytes: int) -> int:
    """The piece size for a file, in whole MiB.

    Small pieces keep the holes near the frontier; few pieces keep the resume state small.
    """
    wanted = max(MIN_PIECE_BYTES, -(-size_bytes // MAX_PIECES))
    return -(-wanted // (1 << 20)) << 20


class PieceTable:
    """The pieces of one file. Guarded by its owner's lock."""

    def __init__(self, size_bytes: int, piece_bytes: int, done: Sequence[int] = ()) -> None:
        self.size_bytes = size_bytes
        self.piece_bytes = piece_bytes
        self.generation = 0
        self._cut(piece_bytes)
        for piece, n in zip(self.pieces, done, strict=False):
            piece.done = min(n, piece.size)
        self.done_bytes = sum(piece.done for piece in self.pieces)

    def _cut(self, piece_bytes: int) -> None:
        starts = range(0, self.size_bytes, piece_bytes)
        self.pieces = [
            Piece(i, start, min(piece_bytes, self.size_bytes - start), self.generation)
            for i, start in enumerate(starts)
        ]

    @property
    def done(self) -> list[int]:
        """The bytes on disk of each piece, as the constructor takes them."""
        return [piece.done for piece in self.pieces]

    @property
    def is_complete(self) -> bool:
        """Whether every byte is on disk."""
        return self.done_bytes == self.size_bytes

    def frontier(self, known: int = 0) -> int:
        """How many bytes from the start have no hole, given a lower bound."""
        for piece in self.pieces[known // self.piece_bytes :]:
            if not piece.is_complete:
                return piece.start + piece.done
        return self.size_bytes

    def claim(self) -> Piece | None:
        """Claim the first piece that is neither complete nor claimed; None if there is none."""
        for piece in self.pieces:
            if not piece.is_complete and not piece.is_claimed:
                piece.is_claimed = True
                return piece
        return None

    def record_written(self, piece: Piece, n_bytes: int) -> bool:
        """Add bytes to a claimed piece; False when the piece is of an older generation."""
        if piece.generation != self.generation:
            return False
        piece.done += n_bytes
        self.done_bytes += n_bytes
        return True

    def release(self, piece: Piece) -> None:
        """Let another worker claim the piece."""
        piece.is_claimed = False

    def reset(self, *, as_one: bool = False) -> None:
        """Start the file over; `as_one` when the source can only send the whole file."""
        self.generation += 1
        self.done_bytes = 0
        if as_one:
            self.piece_bytes = max(1, self.size_bytes)
        self._cut(self.piece_bytes)
