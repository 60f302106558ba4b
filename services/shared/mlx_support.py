"""Where MLX is installed, and where its models are preferred."""

from __future__ import annotations

import platform
import sys
from importlib.util import find_spec


def has_mlx() -> bool:
    """Whether the engine of this environment loads MLX models: it has the extra `mlx`."""
    return find_spec("mlx_lm") is not None


def prefers_mlx() -> bool:
    """Whether MLX is the faster choice here: on Apple silicon, where it is installed."""
    return sys.platform == "darwin" and platform.machine() == "arm64" and has_mlx()
