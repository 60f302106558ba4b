"""The table of pieces, compared with a plain set of bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.puller.download.pieces import MAX_PIECES, PieceTable, choose_piece_bytes


@given(st.integers(0, 1 << 50))
def test_pieces_are_few_and_whole_mebibytes(size_bytes: int) -> None:
    piece = choose_piece_bytes(size_bytes)

    assert piece % (1 << 20) == 0
    assert piece * MAX_PIECES >= size_bytes


@given(st.integers(0, 300), st.integers(1, 50), st.data())
def test_the_table_tracks_the_bytes_on_disk(
    size: int, piece_bytes: int, data: st.DataObject
) -> None:
    table = PieceTable(size, piece_bytes)
    on_disk: set[int] = set()
    claimed = []
    for _ in range(data.draw(st.integers(0, 60))):
        piece = table.claim()
        if piece is not None:
            claimed.append(piece)
        if not claimed:
            break
        piece = data.draw(st.sampled_from(claimed))
        n = data.draw(st.integers(0, piece.size - piece.done))
        on_disk |= set(range(piece.start + piece.done, piece.start + piece.done + n))
        assert table.record_written(piece, n)
        table.release(piece)
        claimed.remove(piece)

    frontier = next((i for i in range(size) if i not in on_disk), size)
    assert table.frontier() == frontier
    assert table.frontier(frontier) == frontier
    assert table.done_bytes == len(on_disk)
    assert table.is_complete == (len(on_disk) == size)
    assert PieceTable(size, piece_bytes, table.done).done == table.done


def test_pieces_are_claimed_front_to_back_and_once() -> None:
    table = PieceTable(10, 4, done=[4, 1, 0])

    pieces = [table.claim(), table.claim(), table.claim()]

    assert [p and (p.start, p.size, p.done) for p in pieces] == [(4, 4, 1), (8, 2, 0), None]


def test_bytes_for_an_older_generation_are_refused() -> None:
    table = PieceTable(10, 4)
    old = table.claim()
    assert old is not None

    table.reset(as_one=True)

    assert not table.record_written(old, 3)
    assert table.done == [0]
    assert len(table.pieces) == 1
