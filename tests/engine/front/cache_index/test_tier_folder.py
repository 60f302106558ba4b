"""The folder of a tier, also where another user has put things into it, or in its place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from services.engine.front.cache_index.tier_folder import TierFolder
from tests.engine.front.cache_index.stored_files import store_entry

KEY_ID = b"k" * 16
NAME = "ab" + "0" * 62


def list_names(folder: TierFolder) -> list[str]:
    return [entry.name for entry in folder.list_entries()]


def test_a_folder_keeps_its_id(tmp_path: Path) -> None:
    folder = TierFolder(tmp_path / "kv", "disk")

    assert TierFolder(tmp_path / "kv", "disk").id == folder.id
    assert TierFolder(tmp_path / "other", "disk").id != folder.id
    assert (tmp_path / "kv").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", [NAME, NAME + "." + "0" * 16 + ".tmp"], ids=["entry", "partial"])
def test_a_pipe_stops_nobody_who_opens_what_lies_there(tmp_path: Path, name: str) -> None:
    folder = TierFolder(tmp_path, "disk")
    kept = store_entry(tmp_path, KEY_ID)
    (tmp_path / name[:2]).mkdir(exist_ok=True)
    os.mkfifo(tmp_path / name[:2] / name[2:])

    assert list_names(folder) == [kept]
    folder.sweep()
    assert not (tmp_path / name[:2] / name[2:]).exists()


def test_what_is_no_entry_hides_no_entry(tmp_path: Path) -> None:
    folder = TierFolder(tmp_path, "disk")
    kept = store_entry(tmp_path, KEY_ID)
    (tmp_path / "00").touch()
    (tmp_path / NAME[:2] / NAME[2:]).mkdir(parents=True)
    target = tmp_path / "target"
    target.write_bytes(b"of another user")
    (tmp_path / "ab" / ("1" * 62)).symlink_to(target)

    assert list_names(folder) == [kept]
    assert target.exists()


def test_a_file_in_memory_is_not_made_where_another_user_says(tmp_path: Path) -> None:
    """In /dev/shm anybody may make a folder of our name before us, and links in it."""
    precious = tmp_path / "precious"
    precious.write_text("of the victim")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / ".tier").symlink_to(precious)
    (tmp_path / "ours").symlink_to(theirs)

    with pytest.raises(PermissionError):
        TierFolder(tmp_path / "ours", "ram")
    assert precious.read_text() == "of the victim"


def test_a_folder_in_memory_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kv").mkdir()
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)

    with pytest.raises(PermissionError):
        TierFolder(tmp_path / "kv", "ram")


def test_others_may_not_look_into_a_folder_in_memory_that_was_there(tmp_path: Path) -> None:
    (tmp_path / "kv").mkdir()
    (tmp_path / "kv").chmod(0o777)
    TierFolder(tmp_path / "kv", "ram")

    assert (tmp_path / "kv").stat().st_mode & 0o777 == 0o700
