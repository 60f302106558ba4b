"""`import`: models that are on this computer already, into the stack's store.

The puller's code does it in a child process, since importing needs the files and no server: it
works whether the stack runs or not.
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
    """A line a model. Exit status 1 when one could not be imported; Problem when asked wrongly."""
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
    """What the importer is told. Problem unless there is one thing to import."""
    kinds = {"--any": path, "--ollama": ollama, "--hf": hf}
    given = [(kind, folder) for kind, folder in kinds.items() if folder is not None]
    if len(given) != 1:
        raise CommandError("give one of: a file or folder, --ollama DIR, --hf DIR")
    [(kind, folder)] = given
    if name is not None and kind != "--any":
        raise CommandError("--name is for one file or folder; the others bring their own names")
    return [
        kind,
        str(folder.expanduser().absolute()),
        *(["--name", name] if name is not None else []),
        *(["--copy"] if copy else []),
    ]


def build_environment(paths: StackPaths, inherited: Mapping[str, str]) -> dict[str, str]:
    """The person's own, pointed at this data directory."""
    return {
        **inherited,
        "SPINDLL_DATA_DIR": str(paths.data_dir),
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
    }
