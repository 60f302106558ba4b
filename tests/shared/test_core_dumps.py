"""What the kernel keeps of a process that crashes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

_CRASH = """
import os, resource, sys
from services.shared.core_dumps import forbid_core_dumps
hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
if sys.argv[1] == "forbidden":
    forbid_core_dumps()
os.abort()
"""


def crash(folder: Path, dumps: str) -> list[str]:
    """The files that a process leaves in its folder."""
    folder.mkdir()
    command = [sys.executable, "-c", _CRASH, dumps]
    environment = {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    died = subprocess.run(command, cwd=folder, env=environment, check=False)
    assert died.returncode == -signal.SIGABRT
    return [path.name for path in folder.iterdir()]


def test_a_crash_leaves_no_file(tmp_path: Path) -> None:
    left = crash(tmp_path / "forbidden", "forbidden")
    allowed = crash(tmp_path / "allowed", "allowed")

    assert left == []
    if not allowed:
        pytest.skip("this machine writes no core dumps to the folder of a process")
