"""MLX models for tests, made from the tiny one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TINY_MLX
from tests.engine.backends.mlx.mlx_tests import skip_without_mlx


@pytest.fixture(autouse=True)
def _mlx() -> None:
    skip_without_mlx()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may break."""
    return Path(shutil.copytree(TINY_MLX, tmp_path / "model"))


@pytest.fixture
def change_config(folder: Path) -> Callable[..., None]:
    """A function that changes keys of config.json."""

    def change(**changes: Any) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change
