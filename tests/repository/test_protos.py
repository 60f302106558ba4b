from __future__ import annotations

from pathlib import Path

from tests.repository.stubs import ROOT, generate_stubs


def read_stubs(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (folder / "protos").glob("*_pb2*.py*")}


def test_the_committed_stubs_match_the_protos(tmp_path: Path) -> None:
    generate_stubs(tmp_path)

    assert read_stubs(tmp_path) == read_stubs(ROOT), "run `make proto`"
