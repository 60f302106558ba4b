"""What the engine loads depends on what is installed beside it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize("is_installed", [True, False])
def test_mlx_models_are_loaded_where_mlx_lm_is_installed(
    tmp_path: Path, *, is_installed: bool
) -> None:
    """It is found, and not imported: that takes seconds."""
    if is_installed:
        (tmp_path / "mlx_lm").mkdir()
        (tmp_path / "mlx_lm" / "__init__.py").write_text("raise SystemExit('imported')")
    code = (
        f"import sys; sys.path = [{str(tmp_path)!r}, *sys.path]\n"
        "from importlib import util\n"
        + ("" if is_installed else "util.find_spec = lambda name: None\n")
        + "from services.puller.formats import engine_support; print(engine_support.LOADS_MLX)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)

    assert (found.stdout, found.returncode) == (f"{is_installed}\n", 0), found.stderr
