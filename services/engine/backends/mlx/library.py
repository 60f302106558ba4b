"""Open MLX and mlx-lm once per process, without their side effects.

Importing mlx-lm lowers the limit of open files for good, or fails where it cannot. It imports
transformers too, which takes seconds; so only a runner does this, when it loads an MLX model.
"""

from __future__ import annotations

import os
import resource
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from services.shared.errors import ModelLoadFailed


@dataclass(frozen=True, slots=True)
class MlxLibrary:
    """The parts of MLX and mlx-lm that we call."""

    mx: Any
    load_model: Any
    tree_flatten: Any
    tree_unflatten: Any
    make_prompt_cache: Any
    can_trim_prompt_cache: Any
    trim_prompt_cache: Any
    prompt_cache_class: Any  # LRUPromptCache
    generator_class: Any  # BatchGenerator
    version: str  # of mlx-lm, and of MLX


@cache
def load_library() -> MlxLibrary:
    """Import everything. Raises ModelLoadFailed where MLX is not installed."""
    # No part of mlx-lm may look for a model on the network.
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        with _limits_kept(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import mlx.core as mx
            import mlx_lm
            from mlx.utils import tree_flatten, tree_unflatten
            from mlx_lm.generate import BatchGenerator
            from mlx_lm.models import cache as prompt_cache
            from mlx_lm.utils import load_model
    except ImportError as error:
        raise ModelLoadFailed(
            "MLX is not installed here: its models need the extra `mlx`"
        ) from error
    return MlxLibrary(
        mx=mx,
        load_model=load_model,
        tree_flatten=tree_flatten,
        tree_unflatten=tree_unflatten,
        make_prompt_cache=prompt_cache.make_prompt_cache,
        can_trim_prompt_cache=prompt_cache.can_trim_prompt_cache,
        trim_prompt_cache=prompt_cache.trim_prompt_cache,
        prompt_cache_class=prompt_cache.LRUPromptCache,
        generator_class=BatchGenerator,
        version=f"{mlx_lm.__version__}, mlx {mx.__version__}",
    )


@contextmanager
def _limits_kept() -> Iterator[None]:
    """Within the block, nothing changes the limits of this process."""
    original = resource.setrlimit
    resource.setrlimit = lambda *_: None
    try:
        yield
    finally:
        resource.setrlimit = original
