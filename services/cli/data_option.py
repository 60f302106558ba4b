"""The option `--data`, which all commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services.cli.paths import StackPaths
from services.shared.data_dir import default_data_dir

Data = Annotated[
    Path,
    typer.Option(
        "--data",
        envvar="SPINDLL_DATA_DIR",
        default_factory=default_data_dir,
        show_default="the platform's data folder",
        help="Folder for models, keys and logs.",
    ),
]


def find_paths(data: Path) -> StackPaths:
    """The paths in the folder that the option names."""
    return StackPaths(data.expanduser().absolute())
