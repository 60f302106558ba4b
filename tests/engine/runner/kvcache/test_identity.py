from __future__ import annotations

import msgspec
import pytest

from services.engine.core import CacheConfig, LoadConfig, MemoryPolicy, ModelInfo
from services.engine.runner.kvcache.identity import build_identity

CONFIG = LoadConfig(
    model_path="/models/model.gguf",
    backend="llamacpp",
    context_length=4096,
    cache=CacheConfig(model_digest="sha256:model", disk_folder="/kvcache"),
)
INFO = ModelInfo(
    architecture="qwen2",
    vocab_size=1000,
    context_length=4096,
    trained_context_length=4096,
    max_sequences=4,
    memory_policy=MemoryPolicy.DENSE,
    gpu_layers=0,
    backend="llama.cpp 0.3.36",
    weights_bytes=1,
    kv_bytes=1,
    compute_bytes=1,
)


@pytest.mark.parametrize(
    "change",
    [
        {"cache": CacheConfig(model_digest="sha256:other")},
        {"cache_type_k": "q8_0"},
        {"cache_type_v": "q8_0"},
        {"flash_attention": False},
        {"kv_mode": "split"},
        {"backend": "llama.cpp 0.3.37"},
        {"architecture": "qwen3"},
        {"memory_policy": MemoryPolicy.WINDOW},
        {"window": 128},
        {"short_context_length": 2048},
    ],
    ids=" ".join,
)
def test_states_of_another_kind_are_not_found(change: dict[str, object]) -> None:
    in_config = {key: value for key, value in change.items() if hasattr(CONFIG, key)}
    in_info = {key: value for key, value in change.items() if hasattr(INFO, key)}
    if "backend" in change:
        in_config = {}
    config = msgspec.structs.replace(CONFIG, **in_config)
    info = msgspec.structs.replace(INFO, **in_info)

    assert build_identity(config, info) != build_identity(CONFIG, INFO)


def test_what_leaves_states_alike_keeps_them() -> None:
    cache = CacheConfig(model_digest="sha256:model", ram_folder="/dev/shm/kv", write="never")
    config = msgspec.structs.replace(CONFIG, context_length=8192, threads=3, cache=cache)
    info = msgspec.structs.replace(
        INFO, context_length=8192, short_context_length=8192, max_sequences=8
    )

    assert build_identity(config, info) == build_identity(CONFIG, INFO)
    assert len(build_identity(config, info)) == 32


def test_a_load_without_a_cache_has_no_identity() -> None:
    with pytest.raises(ValueError, match="without a cache"):
        build_identity(msgspec.structs.replace(CONFIG, cache=None), INFO)
