"""Replace this process by another of our modules, under the right interpreter.

The launcher becomes the installer or the command line; the installer becomes the command line.
The first `python3` on PATH may read this file: keep to the syntax of Python 3.7.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def exec_module(root: Path, python: str, module: str, arguments: list[str]) -> None:
    """Replace this process by `python -m module arguments`. Does not return.

    `root` is importable from any working directory; the working directory is not (-P).
    """
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    path = os.pathsep.join(
        [str(root), *(part for part in inherited if part not in ("", str(root)))]
    )
    sys.stdout.flush()
    sys.stderr.flush()
    environment = {**os.environ, "PYTHONPATH": path}
    command = [python, "-P", "-m", module, *arguments]
    os.execve(python, command, environment)  # noqa: S606  a shell is not wanted
