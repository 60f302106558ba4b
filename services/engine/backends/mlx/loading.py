"""Load an MLX folder, or say in one sentence why it cannot be loaded."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from services.engine.backends.base import OnProgress
from services.engine.backends.mlx.folder import find_text_config, read_config, read_end_tokens
from services.engine.backends.mlx.library import MlxLibrary, load_library
from services.engine.backends.mlx.sizes import ModelSizes, measure
from services.engine.backends.mlx.vocabulary import MlxVocabulary
from services.engine.core import HOST, LoadConfig, ModelInfo
from services.shared.errors import InsufficientMemory, ModelLoadFailed

logger = logging.getLogger(__name__)

_DAMAGED = "the model's weights are damaged or incomplete; pull it again"
# Of the allocator, beside what is in use: buffers that wait for their next use.
_ALLOCATOR_BYTES = 1 << 30


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model whose weights are in memory."""

    library: MlxLibrary
    model: Any
    vocabulary: MlxVocabulary
    info: ModelInfo
    sizes: ModelSizes

    def compute_logits(self, tokens: Any, cache: Any = None) -> Any:
        """One forward pass; float32 logits, so that ties are those of the model and not of f16."""
        return self.model(tokens, cache=cache).astype(self.library.mx.float32)

    def make_caches(self) -> list[Any]:
        """The empty caches of one sequence."""
        return list(self.library.make_prompt_cache(self.model))

    def limit_memory(self) -> None:
        """Keep MLX within what the plan promised; only Metal has these limits.

        mlx-lm wires all of the recommended working set when a generator is made. With growing
        caches that has crashed whole Macs, so this must follow every generator.
        """
        mx = self.library.mx
        if not mx.metal.is_available():
            return
        info = self.info
        promised = info.weights_bytes + info.kv_bytes + info.compute_bytes
        recommended = mx.device_info().get("max_recommended_working_set_size", promised)
        mx.set_wired_limit(min(promised, recommended))
        mx.set_memory_limit(promised + _ALLOCATOR_BYTES)
        mx.set_cache_limit(_ALLOCATOR_BYTES)


def load(config: LoadConfig, on_progress: OnProgress) -> LoadedModel:
    """Load a folder on this thread, which then owns the model. Raises ModelLoadFailed."""
    loaded = _open(config)
    parameters = [value for _, value in loaded.library.tree_flatten(loaded.model.parameters())]
    done = 0
    for value in parameters:
        _attempt(partial(loaded.library.mx.eval, value))
        done += value.nbytes
        on_progress(done / max(loaded.info.weights_bytes, 1))
    return loaded


def estimate(config: LoadConfig) -> ModelInfo:
    """The sizes that a load with this config would have. Reads no weights; ModelLoadFailed."""
    return _open(config).info


def free(library: MlxLibrary) -> None:
    """Give the memory of dropped models and caches back to the system."""
    gc.collect()
    library.mx.clear_cache()


def _open(config: LoadConfig) -> LoadedModel:
    _check_settings(config)
    folder = Path(config.model_path)
    model_config = read_config(folder)
    library = load_library()
    model, _ = _attempt(lambda: library.load_model(folder, lazy=True))
    sizes = _attempt(lambda: measure(library, model))
    vocabulary = MlxVocabulary(
        folder, size=sizes.vocab_size, end_tokens=read_end_tokens(folder, model_config)
    )
    kv_bytes = sizes.compute_kv_bytes(config)
    compute_bytes = sizes.compute_scratch_bytes(config, model_config)
    trained = find_text_config(model_config).get("max_position_embeddings")
    info = ModelInfo(
        architecture=str(model_config["model_type"]),
        vocab_size=sizes.vocab_size,
        context_length=config.context_length,
        trained_context_length=trained if isinstance(trained, int) else 0,
        max_sequences=config.max_sequences,
        memory_policy=sizes.policy,
        window=sizes.window,
        gpu_layers=0,
        backend=f"mlx-lm {library.version}",
        weights_bytes=sizes.weights_bytes,
        kv_bytes=kv_bytes,
        compute_bytes=compute_bytes,
        pool_bytes={HOST: sizes.weights_bytes + kv_bytes + compute_bytes},
    )
    return LoadedModel(library, model, vocabulary, info, sizes)


def _check_settings(config: LoadConfig) -> None:
    """ModelLoadFailed for what mlx-lm's batches cannot do: its QuantizedKVCache has no `merge`."""
    for name in ("cache_type_k", "cache_type_v"):
        if (value := getattr(config, name)) != "f16":
            raise ModelLoadFailed(
                f"MLX batches KV caches of 16 bits only: {name} must be f16, and is {value}"
            )


def _attempt(call: Callable[[], Any]) -> Any:
    """Call mlx-lm; its errors name paths and tensors, so a client gets a sentence of ours."""
    try:
        return call()
    except ModelLoadFailed:
        raise
    except MemoryError as error:
        raise InsufficientMemory("not enough memory for the model with these settings") from error
    except Exception as error:
        logger.exception("MLX could not load the model")
        raise ModelLoadFailed(_explain(error)) from error


def _explain(error: Exception) -> str:
    text = str(error)
    if "not supported" in text and "Model type" in text:
        return "this version of mlx-lm does not know the model_type of config.json"
    if "shape" in text or "parameters not in model" in text or "Missing" in text:
        return "the weights do not fit the model that config.json describes"
    if isinstance(error, RuntimeError | OSError):
        return _DAMAGED
    if isinstance(error, KeyError | TypeError):
        return "config.json lacks values that its architecture needs, or has wrong ones"
    return "MLX could not load the model; see the log of the engine"
