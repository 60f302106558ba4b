"""Peers are found where they are said to be, and missing ones are named; a run writes its files."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from bench.results import read_raw
from bench.servers import LLAMA_SERVER_VARIABLE, find_peers
from tests.conftest import ROOT, TINY_GGUF


def make_program(folder: Path) -> Path:
    program = folder / "llama-server"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    return program


def test_the_named_program_is_the_peer(tmp_path: Path) -> None:
    program = make_program(tmp_path)

    peers = find_peers(tmp_path, {LLAMA_SERVER_VARIABLE: str(program)})

    assert peers.llama_server == program


def test_a_tarball_is_unpacked_into_the_working_folder(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (workdir := tmp_path / "work").mkdir()
    with tarfile.open(tmp_path / "peer.tar.xz", "w:xz") as archive:
        archive.add(make_program(tmp_path / "inside"), "release/llama-server")

    peers = find_peers(workdir, {LLAMA_SERVER_VARIABLE: str(tmp_path / "peer.tar.xz")})

    assert peers.llama_server is not None
    assert peers.llama_server.is_relative_to(workdir)
    assert subprocess.run([peers.llama_server]).returncode == 0


@pytest.mark.parametrize("name", ["nothing-here", "not-a-program.txt"])
def test_a_peer_that_is_not_there_is_skipped_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "not-a-program.txt").write_text("words")

    peers = find_peers(tmp_path, {LLAMA_SERVER_VARIABLE: str(tmp_path / name)})

    assert peers.llama_server is None
    assert any(reason.startswith("llama-server: set") for reason in peers.skipped)


def run_bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench.run", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


def test_an_unknown_scenario_is_named_with_those_there_are() -> None:
    done = run_bench("throughput", "nonsense")

    assert done.returncode == 1
    assert "no such scenario: nonsense; there are throughput, stall" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_quick_run_writes_numbers_report_and_plot(tmp_path: Path) -> None:
    done = run_bench("--quick", "--model", str(TINY_GGUF), "--out", str(tmp_path), "wire")

    assert done.returncode == 0, done.stderr
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".csv", ".md", ".svg"]
    measurements, about = read_raw(next(tmp_path.glob("*.csv")))
    assert {m.case for m in measurements} == {"16 streams", "64 streams"}
    assert {"cpu_us_per_token", "tokens_per_second"} <= {m.metric for m in measurements}
    assert about["model"] == TINY_GGUF.name
