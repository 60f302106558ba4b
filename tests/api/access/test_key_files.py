"""The two key files: created at the first start, private, complete."""

from __future__ import annotations

import asyncio
import stat
import sys
from pathlib import Path

from services.api.access.key_files import create_key_files, read_key_files
from services.api.access.keys import Role


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
        "import sys, pathlib; from services.api.access.key_files import load_key_files;"
        "print(sorted(load_key_files(pathlib.Path(sys.argv[1]))))"
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
