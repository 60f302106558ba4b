"""The kinds of model and memory that the contract suites run on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from services.engine.backends.fake_behaviour import Behaviour
from services.engine.core import LoadConfig, MemoryPolicy
from tests.conftest import TINY_GGUF, TINY_MLX
from tests.models.random_mlx import write_random_mlx

# Of llama.cpp's models; -1: all. A machine with a GPU runs these suites on it with `GPU_LAYERS=-1`.
_GPU_LAYERS = int(os.environ.get("GPU_LAYERS", "0"))
# Errors where numbers are added in another order: of cells with holes between them, or of a step
# with many rows. They are relative to the spread of the logits, and two to three times what was
# measured. One wrong token in the middle of the text changes the logits of the models with random
# weights by 0.05 and more. The trained model is less sensitive, and closer.
_TOLERANCES = {"tiny": 0.003, "tiny q8_0": 0.005, "window q8_0": 0.06, "hybrid q8_0": 0.06}
_TOLERANCE = 0.03
# A GPU multiplies in another way for each number of rows.
_GPU_TOLERANCE, _GPU_LOGPROB_TOLERANCE = 0.06, 0.2
_Q8_0: dict[str, Any] = {"cache_type_k": "q8_0", "cache_type_v": "q8_0"}

# Each kind: a model, or the memory policy of a fake one, and the settings of its load.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "fake dense": ("dense", {}),
    "fake window": ("window", {}),
    "fake recurrent": ("recurrent", {}),
    "tiny": ("tiny", {}),
    "tiny q8_0": ("tiny", _Q8_0),
    "tiny without flash attention": ("tiny", {"flash_attention": False}),
    "tiny split": ("tiny", {"kv_mode": "split"}),
    "tiny split q8_0": ("tiny", {"kv_mode": "split", **_Q8_0}),
    "window split": ("tiny-window", {"kv_mode": "split"}),
    "window": ("tiny-window", {}),
    "window q8_0": ("tiny-window", _Q8_0),
    "recurrent": ("tiny-recurrent", {}),
    "hybrid": ("tiny-hybrid", {}),
    "hybrid q8_0": ("tiny-hybrid", _Q8_0),
}

# Of batchers only: MLX batches by itself, so there is no backend below it.
BATCHER_KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    **KINDS,
    "tiny mlx": ("tiny-mlx", {}),
    "tiny mlx split": ("tiny-mlx", {"kv_mode": "split"}),
    "window mlx": ("mlx-window", {}),
    "recurrent mlx": ("mlx-recurrent", {}),
}


def build_config(
    kind: str, folder: Path, synthetic: Callable[[str], Path], **changes: Any
) -> LoadConfig:
    """The load of one kind; a fake one gets its behaviour from a file in `folder`."""
    model, settings = BATCHER_KINDS[kind]
    is_fake, is_mlx = kind.startswith("fake"), "mlx" in kind
    if is_fake:
        path = folder / f"{model}.json"
        path.write_bytes(msgspec.json.encode(Behaviour(memory_policy=MemoryPolicy(model))))
    else:
        known = {"tiny": TINY_GGUF, "tiny-mlx": TINY_MLX}
        path = known[model] if model in known else _make_model(model, folder, synthetic)
    fields: dict[str, Any] = {
        "model_path": str(path),
        "backend": "fake" if is_fake else "mlx" if is_mlx else "llamacpp",
        "context_length": 1024,
        "max_sequences": 6,
        "batch_tokens": 128,
        "threads": 1,
    }
    if _GPU_LAYERS and not (is_fake or is_mlx):
        fields |= {"gpu_layers": _GPU_LAYERS, "devices": ("cuda0",)}
    return LoadConfig(**fields | settings | changes)


def _make_model(model: str, folder: Path, synthetic: Callable[[str], Path]) -> Path:
    if not model.startswith("mlx"):
        return synthetic(model)
    path = folder / model
    return path if path.exists() else write_random_mlx(model, path)


def get_policy(kind: str) -> MemoryPolicy:
    """The memory policy that a load of this kind must find."""
    if "window" in kind:
        return MemoryPolicy.WINDOW
    if "recurrent" in kind or "hybrid" in kind:
        return MemoryPolicy.RECURRENT
    return MemoryPolicy.DENSE


def get_tolerance(kind: str) -> float:
    """How far logits that should be equal may differ, as a part of their standard deviation."""
    if _GPU_LAYERS:
        return _GPU_TOLERANCE
    model, is_quantised = kind.split(maxsplit=1)[0], kind.endswith("q8_0")
    return _TOLERANCES.get(f"{model} q8_0" if is_quantised else model, _TOLERANCE)


def get_logprob_tolerance(kind: str) -> float:
    """How far two log-probabilities may differ that should be equal."""
    if _GPU_LAYERS:
        return _GPU_LOGPROB_TOLERANCE
    return 0.1 if kind.endswith("q8_0") else 0.04
