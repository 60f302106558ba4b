from __future__ import annotations

from pathlib import Path

from tests.repository.stubs import ROOT, generate


def generated_files(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (folder / "protos").glob("*_pb2*.py*")}


def test_the_committed_stubs_are_what_the_protos_say(tmp_path: Path) -> None:
    generate(tmp_path)

    assert generated_files(tmp_path) == generated_files(ROOT), "run `make proto`"
