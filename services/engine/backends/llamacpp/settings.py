"""Translate a LoadConfig into llama.cpp's own parameters, for a load and for its dry run."""

from __future__ import annotations

import ctypes
import math
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import psutil

from services.engine.backends.llamacpp.compute_modules import uses_amx
from services.engine.core import CONTEXT_STEP, HOST, LoadConfig

_UBATCH = 512  # tokens computed at once inside a step; more would only need larger compute buffers
_MAX_SEQUENCES = 256  # LLAMA_MAX_SEQ
_CACHED_SEQUENCES = 48  # idle sequences beside the running ones; an id costs almost nothing
_EXTRA_OUTPUTS = 64  # for drafted tokens, and for prompt tokens whose logits are requested
_SPLIT_MODE_NONE = 0  # LLAMA_SPLIT_MODE_NONE: everything on `main_gpu`
_NO_GPU = -1
# LLAMA_LOAD_MODE_NONE. A dry run aborts with any other mode. On a CPU, weights that are read
# compute 2 to 8 % faster than mapped ones, whose pages are scattered in the page cache.
_LOAD_WITHOUT_MMAP = 0

# ggml_type of each name in shared/limits.py CacheType
_CACHE_TYPES = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "bf16": 30,
}  # fmt: skip


def build_model_parameters(lib: ModuleType, config: LoadConfig, *, dry: bool = False) -> Any:
    """Build llama_model_params. Keep the result alive as long as the load runs."""
    params = lib.llama_model_default_params()
    params.n_gpu_layers = 999_999 if config.gpu_layers < 0 else config.gpu_layers
    if len(config.devices) <= 1:
        params.split_mode = _SPLIT_MODE_NONE
        params.main_gpu = 0 if config.devices else _NO_GPU
    params.load_mode = _LOAD_WITHOUT_MMAP
    # Without these buffers, weights keep their own layout, for which AMX is not used.
    params.use_extra_bufts = not uses_amx(lib)
    if config.tensor_split:
        room = max(int(lib.llama_max_devices()), len(config.tensor_split))
        shares = (ctypes.c_float * room)(*config.tensor_split)
        params.tensor_split = ctypes.cast(shares, ctypes.POINTER(ctypes.c_float))
        params._tensor_split = shares  # noqa: SLF001, the struct holds only a pointer
    if dry:
        params.no_alloc = True
    return params


def build_context_parameters(lib: ModuleType, config: LoadConfig, *, is_recurrent: bool) -> Any:
    """Build llama_context_params, for a unified memory or for one memory per sequence."""
    params = lib.llama_context_default_params()
    # llama.cpp rounds the context up, but before that it limits the batch to the context.
    context_length = -(-config.context_length // CONTEXT_STEP) * CONTEXT_STEP
    params.n_batch = min(max(config.batch_tokens, config.max_sequences), context_length)
    params.n_ubatch = min(_UBATCH, params.n_batch)
    params.n_seq_max = count_sequence_ids(config, is_recurrent=is_recurrent)
    params.kv_unified = is_unified(config, is_recurrent=is_recurrent)
    params.n_ctx = context_length * (1 if params.kv_unified else params.n_seq_max)
    # The compute buffer has this many rows of the whole vocabulary; the default is one per token.
    params.n_outputs_max = max_outputs(config, is_recurrent=is_recurrent)
    params.n_threads = params.n_threads_batch = config.threads or count_available_cores()
    params.swa_full = (
        True  # otherwise cutting a running window sequence gives wrong results, without an error
    )
    params.no_perf = True
    params.type_k = _CACHE_TYPES[config.cache_type_k]
    params.type_v = _CACHE_TYPES[config.cache_type_v]
    if config.flash_attention is not None:
        params.flash_attn_type = int(config.flash_attention)
    return params


def is_unified(config: LoadConfig, *, is_recurrent: bool) -> bool:
    """Whether all sequences take their cells from one pool.

    A model with recurrent layers always does: otherwise its prefixes could not be shared.
    """
    return is_recurrent or config.kv_mode == "unified"


def count_offloaded_layers(config: LoadConfig, layers: int) -> int:
    """How many of a model's layers are on devices."""
    if not config.devices:
        return 0
    return layers if config.gpu_layers < 0 else min(config.gpu_layers, layers)


def place_layers(config: LoadConfig, layers: int) -> dict[str, int]:
    """How many of a model's layers each memory pool gets, as llama.cpp distributes them.

    See `get_layer_buft_list` in llama.cpp's llama-model.cpp; the last layers are offloaded first.
    """
    offloaded = count_offloaded_layers(config, layers)
    shares = np.array(config.tensor_split or (1.0,) * len(config.devices), np.float32)
    ends = np.cumsum(shares) / shares.sum() if offloaded else shares
    starts = np.arange(offloaded, dtype=np.float32) / np.float32(max(offloaded, 1))
    places = np.searchsorted(ends, starts, side="right")
    placed = {HOST: layers - offloaded}
    for number, pool in enumerate(config.devices):
        placed[pool] = placed.get(pool, 0) + int(np.count_nonzero(places == number))
    return placed


def count_sequence_ids(config: LoadConfig, *, is_recurrent: bool) -> int:
    """Count the sequence ids of the context: for running sequences and for cached ones.

    A recurrent model allocates a whole state per id, so it gets only a few ids for cached ones. With
    a memory per sequence there are none: what does not run at the moment is cached. Otherwise there
    is one more, through which parts of sequences are saved and loaded.
    """
    if is_recurrent:
        cached = max(2, config.max_sequences // 4)
    else:
        cached = _CACHED_SEQUENCES + 1 if is_unified(config, is_recurrent=is_recurrent) else 0
    return min(config.max_sequences + cached, _MAX_SEQUENCES)


def max_outputs(config: LoadConfig, *, is_recurrent: bool) -> int:
    """Most tokens of a step that may want logits.

    llama.cpp aborts if a step wants more, or if this is less than n_seq_max.
    """
    return count_sequence_ids(config, is_recurrent=is_recurrent) + _EXTRA_OUTPUTS


def count_available_cores() -> int:
    """Count the physical cores that affinity and the container's quota allow this process."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    physical = psutil.cpu_count(logical=False)
    limits = [limit for limit in (allowed, physical, _read_cgroup_quota()) if limit]
    return max(1, min(limits, default=1))


def _read_cgroup_quota() -> int | None:
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else max(1, math.ceil(int(quota) / int(period)))
