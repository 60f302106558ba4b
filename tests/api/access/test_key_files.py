"""The two key files: created at the first start, private, complete."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import stat
import sys
from pathlib import Path

import pytest

from services.api.access.key_files import KeyFiles, create_key_files, read_key_files
from services.api.access.keys import ApiKey, Role, hash_key

OWN_KEY = "made-by-hand-0123456789abcdef"


def test_the_first_start_creates_two_keys_that_others_cannot_read(tmp_path: Path) -> None:
    create_key_files(tmp_path / "secrets")

    files = sorted((tmp_path / "secrets").iterdir())
    assert [file.name for file in files] == ["admin.key", "user.key"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert all(file.read_text().startswith("sk-") for file in files)
    assert len({file.read_text() for file in files}) == 2
    assert all(len(file.read_text().strip()) == 46 for file in files)


def test_a_later_start_keeps_the_keys(tmp_path: Path) -> None:
    create_key_files(tmp_path)
    before = read_key_files(tmp_path)
    create_key_files(tmp_path)

    assert read_key_files(tmp_path) == before
    assert {key.role for key in before.values()} == set(Role)


async def test_processes_that_start_at_the_same_time_agree_on_the_keys(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib; from services.api.access.key_files import *;"
        "folder = pathlib.Path(sys.argv[1]); create_key_files(folder);"
        "print(sorted(read_key_files(folder)))"
    )
    started = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, str(tmp_path), stdout=asyncio.subprocess.PIPE
        )
        for _ in range(3)
    ]
    outputs = {(await process.communicate())[0] for process in started}

    assert len(outputs) == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["admin.key", "user.key"]


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK])
def test_a_folder_without_hard_links_gets_keys_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)  # as on SMB and exFAT
    create_key_files(tmp_path)
    before = read_key_files(tmp_path)
    create_key_files(tmp_path)

    assert {key.role for key in before.values()} == set(Role)
    assert read_key_files(tmp_path) == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["admin.key", "user.key"]


@pytest.mark.parametrize("weak", ["secret", "a" * 64, "0123456789" * 2], ids=str)
def test_a_key_that_can_be_guessed_is_not_accepted_and_its_file_is_named(
    tmp_path: Path, weak: str, caplog: pytest.LogCaptureFixture
) -> None:
    create_key_files(tmp_path)
    (tmp_path / "user.key").write_text(weak)

    keys = read_key_files(tmp_path)

    assert [key.role for key in keys.values()] == [Role.ADMIN]
    [line] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert line.__dict__["file"] == "user.key"
    assert weak not in str(line.__dict__)


async def read_until_changed(files: KeyFiles, digest: str) -> ApiKey:
    async with asyncio.timeout(10):
        while (key := files.find(digest)) is None:
            await asyncio.sleep(0.02)
    return key


async def test_a_replaced_file_replaces_its_key_in_every_living_worker(tmp_path: Path) -> None:
    create_key_files(tmp_path)
    workers = [KeyFiles(tmp_path), KeyFiles(tmp_path)]
    old = hash_key((tmp_path / "user.key").read_text().strip())
    admin = hash_key((tmp_path / "admin.key").read_text().strip())
    assert all(files.find(old) for files in workers)

    (tmp_path / "new").write_text(OWN_KEY)
    (tmp_path / "new").replace(tmp_path / "user.key")
    for files in workers:
        assert (await read_until_changed(files, hash_key(OWN_KEY))).role is Role.USER

    assert [files.find(old) for files in workers] == [None, None]
    assert all(files.find(admin) for files in workers)


async def test_a_key_whose_file_was_deleted_is_not_valid(tmp_path: Path) -> None:
    create_key_files(tmp_path)
    files = KeyFiles(tmp_path)
    digest = hash_key((tmp_path / "user.key").read_text().strip())
    assert files.find(digest) is not None

    (tmp_path / "user.key").unlink()
    async with asyncio.timeout(10):
        while files.find(digest) is not None:
            await asyncio.sleep(0.02)
