from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

import pytest

from services.engine.kv_entry import (
    HEADER_BYTES,
    BadEntry,
    EntryHeader,
    compute_model_tag,
    entry_path,
    parse_entry_path,
    read_header,
    remove_stale_temporary_files,
    temporary_path,
)

HEADER = EntryHeader(
    kind="snapshot",
    slot=3,
    tokens=1000,
    key_id=b"k" * 16,
    salt=b"s" * 16,
    model_tag=compute_model_tag("sha256:model"),
    payload_bytes=5,
    created=1_800_000_000,
    seconds=2.5,
    tail_tag=b"t" * 16,
)
NAME = "ab" + "0" * 62


def test_a_header_has_the_documented_places() -> None:
    data = HEADER.pack()

    assert HEADER_BYTES == len(data) == 100
    assert data[:8] == b"spindlkv"
    assert struct.unpack_from("<HBBI", data, 8) == (1, 2, 3, 1000)
    assert (data[16:32], data[32:48], data[84:]) == (b"k" * 16, b"s" * 16, b"t" * 16)
    assert struct.unpack_from("<QQf", data, 64) == (5, 1_800_000_000, 2.5)
    assert EntryHeader.unpack(data) == HEADER


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [(0, 0, "format"), (8, 2, "version"), (10, 0, "format"), (10, 3, "format"), (11, 4, "format")],
)
def test_a_header_of_another_kind_is_refused(place: int, value: int, reason: str) -> None:
    data = bytearray(HEADER.pack())
    data[place] = value

    with pytest.raises(BadEntry) as error:
        EntryHeader.unpack(bytes(data))
    assert error.value.reason == reason


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0, 1e30])
def test_a_header_of_impossible_seconds_is_refused(seconds: float) -> None:
    """The index orders entries by them."""
    data = bytearray(HEADER.pack())
    data[80:84] = struct.pack("<f", seconds)

    with pytest.raises(BadEntry, match="format"):
        EntryHeader.unpack(bytes(data))


def test_a_header_is_read_only_from_a_file_of_its_size(tmp_path: Path) -> None:
    path = tmp_path / "entry"
    path.write_bytes(HEADER.pack() + bytes(5 + 16))
    assert read_header(path) == HEADER

    path.write_bytes(HEADER.pack() + bytes(5 + 15))
    with pytest.raises(BadEntry, match="size"):
        read_header(path)


def test_a_path_has_a_name_only_if_it_is_that_of_an_entry() -> None:
    path = Path(entry_path("/folder", NAME))

    assert parse_entry_path(path) == NAME
    assert parse_entry_path(Path(temporary_path("/folder", NAME))) is None
    assert parse_entry_path(path.with_name("x" * 62)) is None
    assert parse_entry_path(Path("/folder/.tier")) is None


def test_the_temporary_files_of_dead_writers_are_removed(tmp_path: Path) -> None:
    (tmp_path / "ab").mkdir()
    entry, dead, alive = (
        Path(entry_path(str(tmp_path), NAME)),
        Path(temporary_path(str(tmp_path), NAME)),
        Path(temporary_path(str(tmp_path), NAME)),
    )
    foreign = tmp_path / "ab" / "notes.tmp"
    for path in (entry, dead, alive, foreign):
        path.touch()
    os.utime(dead, (4e9, 4e9))  # written before the clock was set back

    with alive.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert remove_stale_temporary_files(tmp_path, older_than_seconds=3600) == 1
        assert sorted(path for path in (entry, dead, alive, foreign) if path.exists()) == sorted(
            [entry, alive, foreign]
        )
    assert remove_stale_temporary_files(tmp_path, older_than_seconds=3600) == 1
    assert remove_stale_temporary_files(tmp_path / "none", older_than_seconds=0) == 0
