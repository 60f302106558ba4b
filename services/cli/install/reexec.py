"""Become another of our modules: the launcher the installer, the installer the command line.

`./spindll` imports this file with whatever Python there is: keep to the syntax of Python 3.7.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def exec_module(root: Path, python: str, module: str, arguments: list[str]) -> None:
    """Replace this process by `python -m module arguments`. Does not come back.

    The folder is importable from wherever the command was typed, and (-P) what lies in that place
    is not.
    """
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    path = os.pathsep.join(
        [str(root), *(part for part in inherited if part not in ("", str(root)))]
    )
    sys.stdout.flush()
    sys.stderr.flush()
    told = {**os.environ, "PYTHONPATH": path}
    os.execve(python, [python, "-P", "-m", module, *arguments], told)  # noqa: S606  no shell is meant
