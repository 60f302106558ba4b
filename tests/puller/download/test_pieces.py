"""The table of pieces, compared with a plain set of bytes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.puller.download.pieces import (
    MAX_PIECES,
    PieceTable,
    choose_piece_bytes,
    choose_request_bytes,
)


@given(st.integers(0, 1 << 50))
def test_pieces_are_few_and_whole_mebibytes(size_bytes: int) -> None:
    piece = choose_piece_bytes(size_bytes)

    assert piece % (1 << 20) == 0
    assert piece * MAX_PIECES >= size_bytes


@settings(deadline=None)
@given(st.integers(0, 300), st.integers(1, 50), st.data())
def test_the_table_tracks_the_bytes_on_disk(
    size: int, piece_bytes: int, data: st.DataObject
) -> None:
    table = PieceTable(size, piece_bytes)
    on_disk: set[int] = set()
    claimed = []
    for _ in range(data.draw(st.integers(0, 60))):
        claimed += table.claim(data.draw(st.integers(1, 200)), connections=2)
        if not claimed:
            break
        piece = data.draw(st.sampled_from(claimed))
        n = data.draw(st.integers(0, piece.size - piece.done))
        on_disk |= set(range(piece.start + piece.done, piece.start + piece.done + n))
        table.record_written(piece, n)
        table.release([piece])
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

    assert [[(p.start, p.size, p.done) for p in claimed] for claimed in pieces] == [
        [(4, 4, 1)],
        [(8, 2, 0)],
        [],
    ]


@pytest.mark.parametrize(
    ("done", "connections", "claimed"),
    [
        ([0] * 8, 1, [0, 1, 2]),
        ([0] * 8, 4, [0, 1]),
        ([5, 0, 0, 2, 0, 0, 0, 0], 1, [0, 1, 2]),
        ([0, 2, 0, 0, 0, 0, 0, 0], 1, [0]),
        ([10, 0, 10, 0, 0, 0, 0, 0], 1, [1]),
    ],
    ids=["as many as asked", "a share", "a begun first", "a begun second", "a gap"],
)
def test_a_request_spans_pieces_without_a_gap(
    done: list[int], connections: int, claimed: list[int]
) -> None:
    table = PieceTable(80, 10, done)

    assert [p.index for p in table.claim(30, connections=connections)] == claimed


@pytest.mark.parametrize(
    ("bytes_per_second", "request_bytes"),
    [(None, 16 << 20), (1000.0, 16 << 20), (10e6, 60_000_000), (1e9, 128 << 20)],
)
def test_a_request_is_as_large_as_the_speed_allows(
    bytes_per_second: float | None, request_bytes: int
) -> None:
    assert choose_request_bytes(bytes_per_second) == request_bytes
