"""What every test on MLX needs: the library, without its compiler."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from services.engine.core import LoadConfig
from tests.conftest import TINY_MLX


def skip_without_mlx() -> None:
    """Skip where the extra `mlx` is not installed."""
    if find_spec("mlx_lm") is None:
        pytest.skip("the extra `mlx` is not installed: no MLX on this machine")
    # On a processor MLX compiles with g++ at run time, which takes seconds.
    os.environ["MLX_DISABLE_COMPILE"] = "1"


def build_config(folder: Path = TINY_MLX, **changes: Any) -> LoadConfig:
    fields: dict[str, Any] = {"context_length": 512, "max_sequences": 4, "max_queued": 4}
    return LoadConfig(model_path=str(folder), backend="mlx", **fields | changes)
