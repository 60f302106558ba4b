"""The memory that a load takes, to the byte where it is known before.

    weights   the parameters of the lazily loaded model: nothing is read for their shapes
    KV        the caches after a forward pass that is planned and not computed
    compute   an upper bound: activations of a prompt's chunk, logits, and a second copy of the
              caches, which mlx-lm holds while a sequence joins a batch

A cache grows in steps of 256 tokens, so each sequence may hold one unused step. Layers with a
sliding window stop to grow; they are counted as if they did not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.engine.backends.mlx.folder import find_text_config
from services.engine.backends.mlx.library import MlxLibrary
from services.engine.core import LoadConfig, MemoryPolicy
from services.shared.errors import ModelLoadFailed

PREFILL_TOKENS = 512  # at most, of one prompt in one step
PREFILL_PROMPTS = 4  # read at the same time
_CACHE_STEP = 256  # tokens


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """What was measured of a model that is loaded lazily."""

    vocab_size: int
    weights_bytes: int
    token_bytes: int  # of the caches, for each token
    sequence_bytes: int  # of the caches, whatever their length
    policy: MemoryPolicy
    window: int

    def compute_kv_bytes(self, config: LoadConfig) -> int:
        """The caches of all sequences when they are full."""
        unused = config.max_sequences * (self.sequence_bytes + _CACHE_STEP * self.token_bytes)
        return count_cells(config) * self.token_bytes + unused

    def compute_scratch_bytes(self, config: LoadConfig, model_config: Mapping[str, Any]) -> int:
        """Activations, logits, and the second copy of the caches."""
        rows = PREFILL_PROMPTS * min(config.batch_tokens, PREFILL_TOKENS)
        logits = 3 * config.max_sequences * self.vocab_size * 4
        activations = self.compute_activation_bytes(rows, model_config)
        return activations + logits + self.compute_kv_bytes(config)

    def compute_activation_bytes(self, rows: int, model_config: Mapping[str, Any]) -> int:
        """What the layers compute for so many tokens at once."""
        text = find_text_config(model_config)
        width = 8 * _read_int(text, "hidden_size") + 3 * _read_int(text, "intermediate_size")
        return rows * width * 4


def count_cells(config: LoadConfig) -> int:
    """The tokens that all sequences hold together at most."""
    return config.context_length * (config.max_sequences if config.kv_mode == "split" else 1)


def measure(library: MlxLibrary, model: Any) -> ModelSizes:
    """Measure a model whose weights need not be in memory. Raises ModelLoadFailed."""
    small, vocab_size = _plan_caches(library, model, 1)
    large, _ = _plan_caches(library, model, 1 + _CACHE_STEP)
    token_bytes = (large - small) // _CACHE_STEP
    policy, window = _find_policy(library.make_prompt_cache(model))
    return ModelSizes(
        vocab_size=vocab_size,
        weights_bytes=sum(v.nbytes for _, v in library.tree_flatten(model.parameters())),
        token_bytes=token_bytes,
        sequence_bytes=max(small - _CACHE_STEP * token_bytes, 0),
        policy=policy,
        window=window,
    )


def _plan_caches(library: MlxLibrary, model: Any, tokens: int) -> tuple[int, int]:
    """The bytes of one sequence's caches after so many tokens, and the width of the logits."""
    caches = library.make_prompt_cache(model)
    logits = model(library.mx.zeros((1, tokens), library.mx.int32), cache=caches)
    leaves = library.tree_flatten([cache.state for cache in caches])
    return sum(getattr(v, "nbytes", 0) for _, v in leaves), int(logits.shape[-1])


def _find_policy(caches: Sequence[Any]) -> tuple[MemoryPolicy, int]:
    """How prefixes can be reused, and the sliding window; 0 without one."""
    if not caches or not all(hasattr(cache, "merge") for cache in caches):
        raise ModelLoadFailed("MLX cannot batch the memory of this model")
    names = {type(cache).__name__ for cache in caches}
    if names <= {"KVCache"}:
        return MemoryPolicy.DENSE, 0
    if names <= {"KVCache", "RotatingKVCache"}:
        return MemoryPolicy.WINDOW, max(getattr(cache, "max_size", 0) for cache in caches)
    return MemoryPolicy.RECURRENT, 0


def _read_int(config: Mapping[str, Any], name: str) -> int:
    value = config.get(name)
    return value if isinstance(value, int) else 0
