"""The logs of the services, with real files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from services.cli.supervise import logfiles


def append(log: Path, text: str) -> None:
    descriptor = logfiles.open_log(log)
    os.write(descriptor, text.encode())
    os.close(descriptor)


def test_a_log_is_opened_for_appending(tmp_path: Path) -> None:
    log = tmp_path / "api.log"
    append(log, "one\n")
    append(log, "two\n")

    assert log.read_text() == "one\ntwo\n"


def test_a_large_log_is_rotated_and_the_last_three_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logfiles, "MAX_BYTES", 3)
    log = tmp_path / "api.log"
    for text in ("1111", "2222", "3333", "4444", "5555"):
        append(log, text)

    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        "api.log": "5555",
        "api.log.1": "4444",
        "api.log.2": "3333",
        "api.log.3": "2222",
    }


def test_a_log_that_grows_while_it_is_open_is_truncated_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logfiles, "MAX_BYTES", 3)
    log = tmp_path / "api.log"
    descriptor = logfiles.open_log(log)
    os.write(descriptor, b"1111")

    assert logfiles.rotate_in_place(log)
    assert not logfiles.rotate_in_place(log)
    os.write(descriptor, b"22")
    os.close(descriptor)
    assert (log.read_text(), (tmp_path / "api.log.1").read_text()) == ("22", "1111")


def test_every_large_log_of_a_folder_is_rotated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logfiles, "MAX_BYTES", 3)
    for name in ("api.log", "supervisor.log"):
        (tmp_path / name).write_text("1111")
    (tmp_path / "redis.log").write_text("1")
    (tmp_path / "lost.log").symlink_to(tmp_path / "nowhere")

    logfiles.rotate_all(tmp_path)
    assert {p.name: p.read_text() for p in tmp_path.iterdir() if p.exists()} == {
        "api.log": "",
        "api.log.1": "1111",
        "redis.log": "1",
        "supervisor.log": "",
        "supervisor.log.1": "1111",
    }


@pytest.mark.parametrize(
    ("since", "lines"), [(0, ["b", "c"]), (4, ["c"]), (6, []), (99, ["b", "c"])]
)
def test_the_last_lines_of_a_log(tmp_path: Path, since: int, lines: list[str]) -> None:
    log = tmp_path / "api.log"
    log.write_text("a\nb\nc\n")

    assert logfiles.last_lines(log, 2, since_byte=since) == lines


def test_a_missing_log_has_no_lines(tmp_path: Path) -> None:
    assert logfiles.last_lines(tmp_path / "api.log", 2) == []
