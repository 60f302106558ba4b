"""Syncs on file systems that lack a part of them."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from services.shared.store import durable


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The syncs that were made, in order."""
    made: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: made.append("fsync"))
    return made


def test_macos_gets_its_full_sync(synced: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", lambda fd, command: synced.append(str(command)))

    durable.sync(1)

    assert synced == ["51"]


def test_a_file_system_without_the_full_sync_gets_an_fsync(
    synced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int, command: int) -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", refuse)

    durable.sync(1)

    assert synced == ["fsync"]


@pytest.mark.parametrize(
    ("number", "is_borne"), [(errno.EINVAL, True), (errno.EIO, False)], ids=["EINVAL", "EIO"]
)
def test_a_folder_that_cannot_be_synced_is_borne_but_not_a_broken_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, is_borne: bool
) -> None:
    def refuse(fd: int) -> None:
        raise OSError(number, "refused")

    monkeypatch.setattr(os, "fsync", refuse)
    if is_borne:
        durable.sync_folder(tmp_path)
    else:
        with pytest.raises(OSError, match="refused"):
            durable.sync_folder(tmp_path)
