"""Which bytes of a file are on disk, and which pieces to fetch next.

Pure: no file, no socket, no clock.

    piece       0          1          2          3
             |##########|######....|##########|..........|
             [0, frontier)         hashed behind the range workers, while still in the page cache
                        [frontier, )  claimed in order, so the holes stay close to the frontier

Pieces are claimed front to back, one or several consecutive ones for each request.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MIN_PIECE_BYTES = 16 << 20
MAX_PIECES = 1024
# A request for more would leave other connections without work near the end of the file.
MAX_REQUEST_BYTES = 128 << 20
# How long one request should transfer: much longer than its wait for the first byte.
REQUEST_SECONDS = 6.0


@dataclass(slots=True)
class Piece:
    """Bytes [start, start + size) of the file, of which the first `done` are on disk."""

    index: int
    start: int
    size: int
    done: int = 0
    is_claimed: bool = False

    @property
    def end(self) -> int:
        """The offset behind its last byte."""
        return self.start + self.size

    @property
    def next_offset(self) -> int:
        """The offset of its first byte that is not on disk."""
        return self.start + self.done

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


def choose_request_bytes(bytes_per_second: float | None) -> int:
    """How many bytes a connection should request at once, given its measured speed."""
    if bytes_per_second is None:
        return MIN_PIECE_BYTES
    return int(min(max(bytes_per_second * REQUEST_SECONDS, MIN_PIECE_BYTES), MAX_REQUEST_BYTES))


class PieceTable:
    """The pieces of one file. Guarded by its owner's lock."""

    def __init__(self, size_bytes: int, piece_bytes: int, done: Sequence[int] = ()) -> None:
        self.size_bytes = size_bytes
        self.piece_bytes = piece_bytes
        self.pieces = [
            Piece(i, start, min(piece_bytes, size_bytes - start))
            for i, start in enumerate(range(0, size_bytes, piece_bytes))
        ]
        for piece, n in zip(self.pieces, done, strict=False):
            piece.done = min(n, piece.size)
        self.done_bytes = sum(piece.done for piece in self.pieces)

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
                return piece.next_offset
        return self.size_bytes

    def claim(self, max_bytes: int = 1, *, connections: int = 1) -> list[Piece]:
        """Claim the first free piece, and those that follow it without a gap, up to `max_bytes`.

        At least one piece, but no more than this connection's share of the free ones. Empty when
        none is free.
        """
        free = [piece for piece in self.pieces if not piece.is_complete and not piece.is_claimed]
        share = -(-len(free) // connections)
        claimed: list[Piece] = []
        for piece in free[: max(1, min(share, max_bytes // self.piece_bytes))]:
            if claimed and (piece.index != claimed[-1].index + 1 or piece.done):
                break
            piece.is_claimed = True
            claimed.append(piece)
        return claimed

    def claim_after(self, piece: Piece) -> Piece | None:
        """Claim the first free piece behind this one; None if there is none."""
        for later in self.pieces[piece.index + 1 :]:
            if not later.is_complete and not later.is_claimed:
                later.is_claimed = True
                return later
        return None

    def record_written(self, piece: Piece, n_bytes: int) -> None:
        """Add bytes to a claimed piece."""
        piece.done += n_bytes
        self.done_bytes += n_bytes

    def release(self, pieces: Iterable[Piece]) -> None:
        """Let other workers claim the pieces."""
        for piece in pieces:
            piece.is_claimed = False
