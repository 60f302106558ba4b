"""Where MLX is installed, where its models are preferred, and where only they can be loaded."""

from __future__ import annotations

import platform
import sys
from importlib.util import find_spec


def has_mlx() -> bool:
    """Whether the engine of this environment loads MLX models: it has the extra `mlx`."""
    return find_spec("mlx_lm") is not None


def has_only_mlx() -> bool:
    """Whether the engine of this environment loads MLX models and no GGUF ones.

    The puller and the api of a container have neither library, and the engine beside them loads
    GGUF models.
    """
    return has_mlx() and find_spec("llama_cpp") is None


def prefers_mlx() -> bool:
    """Whether MLX is the choice here: the faster one, on Apple silicon, or the only one."""
    is_faster = sys.platform == "darwin" and platform.machine() == "arm64" and has_mlx()
    return is_faster or has_only_mlx()
