"""Find the peers that can be measured on this machine, and keep AMX out of llama-server.

llama-server      SPINDLL_BENCH_LLAMA_SERVER names the program or a tarball that contains it
llama_cpp.server  `python -m llama_cpp.server`, which answers one request at a time
xllamacpp         llama-server's core in a wheel: another build of the library, often a newer one
mlx_lm.server     for MLX folders, with the extra `mlx`: only bench.mlx measures it

The engine does not load ggml's AMX modules, see
services/engine/backends/llamacpp/compute_modules.py. llama-server loads the fastest module it finds
beside its program, so it runs from a folder that lacks the AMX modules: otherwise it would compute
with other code than the engine, and die of SIGILL where the compiler dropped the tile
configuration.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from services.engine.backends.llamacpp.compute_modules import is_amx_module

LLAMA_SERVER_VARIABLE = "SPINDLL_BENCH_LLAMA_SERVER"
LLAMA_SERVER, LLAMA_CPP_PYTHON, XLLAMACPP = "llama-server", "llama_cpp.server", "xllamacpp"
MLX_LM = "mlx_lm.server"


@dataclass(frozen=True, slots=True)
class Peers:
    """The peers that are installed, and the reason for each one that is skipped."""

    llama_server: Path | None
    has_llama_cpp_python: bool
    has_xllamacpp: bool
    skipped: tuple[str, ...]


def find_peers(workdir: Path, environment: Mapping[str, str]) -> Peers:
    """Look for every peer. Unpacked and linked programs are placed in `workdir`."""
    skipped = []
    named = environment.get(LLAMA_SERVER_VARIABLE) or shutil.which("llama-server")
    program = None if named is None else _find_program(Path(named), workdir)
    if program is None:
        skipped.append(f"{LLAMA_SERVER}: set {LLAMA_SERVER_VARIABLE} to the program or its tarball")
    has_python = _can_import("llama_cpp.server.app")
    if not has_python:
        skipped.append(f"{LLAMA_CPP_PYTHON}: pip install 'llama-cpp-python[server]'")
    has_xllamacpp = _can_import("xllamacpp")
    if not has_xllamacpp:
        skipped.append(f"{XLLAMACPP}: pip install xllamacpp, or add it to PYTHONPATH")
    return Peers(
        None
        if program is None
        else link_without_amx(program, workdir / "llama-server-without-amx"),
        has_python,
        has_xllamacpp,
        tuple(skipped),
    )


def link_without_amx(program: Path, folder: Path) -> Path:
    """The program, or a copy in `folder` beside links to all its libraries but AMX modules.

    The program is copied because ggml searches the folder of the resolved path of the program. A
    build that has AMX compiled in, or that finds its modules elsewhere, stays as it is.
    """
    original = program.resolve()
    libraries = list(original.parent.glob("lib*"))
    if not any(is_amx_module(path) for path in libraries):
        return program
    folder.mkdir(parents=True)
    for path in libraries:
        if not is_amx_module(path):
            (folder / path.name).symlink_to(path)
    return Path(shutil.copy2(original, folder / original.name))


def _find_program(path: Path, workdir: Path) -> Path | None:
    """The program at `path`, or the one inside the tarball at `path`."""
    if path.is_file() and tarfile.is_tarfile(path):
        folder = workdir / "llama-server"
        with tarfile.open(path) as archive:
            archive.extractall(folder, filter="data")
        return next((p for p in folder.rglob("llama-server") if p.is_file()), None)
    return path if path.is_file() and os.access(path, os.X_OK) else None


def _can_import(module: str) -> bool:
    probe = [sys.executable, "-c", f"import {module}"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0
