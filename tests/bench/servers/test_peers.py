"""Peers are found where the environment names them, skipped by name, and run without AMX."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bench.servers.llama_cpp_server import avoid_amx_layout
from bench.servers.peers import LLAMA_SERVER_VARIABLE, find_peers, link_without_amx


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
def test_a_missing_peer_is_skipped_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "not-a-program.txt").write_text("words")

    peers = find_peers(tmp_path, {LLAMA_SERVER_VARIABLE: str(tmp_path / name)})

    assert peers.llama_server is None
    assert any(reason.startswith("llama-server: set") for reason in peers.skipped)


def test_a_program_beside_an_amx_module_is_copied_beside_links_to_the_other_modules(
    tmp_path: Path,
) -> None:
    (original := tmp_path / "original").mkdir()
    program = make_program(original)
    for name in ("libggml.so", "libggml-cpu-sapphirerapids.so", "libggml-cpu-zen4.so"):
        (original / name).write_text(name)

    copy = link_without_amx(program, tmp_path / "linked")

    assert sorted(path.name for path in copy.parent.iterdir()) == [
        "libggml-cpu-zen4.so",
        "libggml.so",
        "llama-server",
    ]
    assert not copy.is_symlink()  # ggml searches the folder of the resolved path
    assert (copy.parent / "libggml.so").resolve() == original / "libggml.so"
    assert subprocess.run([copy]).returncode == 0


@pytest.mark.parametrize("has_amx", [True, False], ids=["with AMX", "without AMX"])
def test_llama_cpp_server_keeps_weights_out_of_the_amx_layout(has_amx: bool) -> None:
    info = b"CPU : AMX_INT8 = 1 | " if has_amx else b"CPU : AVX2 = 1 | "
    binding = SimpleNamespace(
        llama_print_system_info=lambda: info,
        llama_model_default_params=lambda: SimpleNamespace(use_extra_bufts=True),
    )
    avoid_amx_layout(cast("Any", binding))

    assert binding.llama_model_default_params().use_extra_bufts is not has_amx
