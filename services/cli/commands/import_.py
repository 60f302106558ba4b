"""`import`: add models that are already on this computer to the stack's store.

The puller's importer runs as a child process. It needs only the files, so the command works
whether or not the stack is running.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import typer

from services.cli.errors import CommandError
from services.cli.paths import StackPaths
from services.cli.supervise.stack import ROOT


def import_models(
    paths: StackPaths,
    path: Path | None,
    *,
    ollama: Path | None,
    hf: Path | None,
    name: str | None,
    copy: bool,
) -> None:
    """Import, and print one line per model; exit status 1 when one could not be imported."""
    arguments = build_arguments(path, ollama=ollama, hf=hf, name=name, copy=copy)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "services.puller.importing.cli", *arguments],
        env=build_environment(paths, os.environ),
        check=False,
    )
    if done.returncode:
        raise typer.Exit(done.returncode if done.returncode > 0 else 1)


def build_arguments(
    path: Path | None, *, ollama: Path | None, hf: Path | None, name: str | None, copy: bool
) -> list[str]:
    """The importer's arguments. Raises CommandError unless exactly one source is given."""
    kinds = {"--any": path, "--ollama": ollama, "--hf": hf}
    given = [(kind, folder) for kind, folder in kinds.items() if folder is not None]
    if len(given) != 1:
        raise CommandError("give one of: a file or folder, --ollama DIR, --hf DIR")
    [(kind, folder)] = given
    if name is not None and kind != "--any":
        raise CommandError("--name is only for a file or folder; a store has its own names")
    return [
        kind,
        str(folder.expanduser().absolute()),
        *(["--name", name] if name is not None else []),
        *(["--copy"] if copy else []),
    ]


def build_environment(paths: StackPaths, inherited: Mapping[str, str]) -> dict[str, str]:
    """The importer's environment: the inherited one, with the data directory of the stack."""
    return {
        **inherited,
        "SPINDLL_DATA_DIR": str(paths.data_dir),
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
    }
