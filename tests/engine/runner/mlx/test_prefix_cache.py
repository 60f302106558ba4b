"""Which computed prefixes are kept where there is no room for all."""

from __future__ import annotations

from typing import Any

from services.engine.backends.mlx.library import load_library
from services.engine.runner.mlx.prefix_cache import PrefixCache


def make_caches(tokens: int) -> list[Any]:
    """The caches of a model of one layer."""
    from mlx_lm.models.cache import KVCache

    keys = load_library().mx.zeros((1, 1, tokens, 8))
    return [KVCache.from_state((keys, keys, tokens))]


def test_beginnings_of_prompts_outlive_the_answers_that_came_later() -> None:
    prefixes = PrefixCache(load_library())
    prefixes.put("realm", [1, 2, 3], make_caches(3), "system")
    size = prefixes.size_bytes
    for first in range(10, 15):
        prefixes.put("realm", [first, 2, 3], make_caches(3), "assistant")

    prefixes.shrink(2 * size)

    kept = [first for first in (1, *range(10, 15)) if prefixes.find("realm", [first, 2, 3, 4])[1]]
    assert kept == [1, 14]
