"""An MLX folder is loaded, or refused in one sentence; and its sizes are known before."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from services.engine.backends import estimate
from services.engine.backends.mlx.library import load_library
from services.engine.backends.mlx.loading import LoadedModel, load
from services.engine.core import HOST, MemoryPolicy
from services.shared.errors import ModelLoadFailed
from tests.conftest import TINY_MLX
from tests.engine.backends.mlx.mlx_tests import build_config

TOKEN_BYTES = 2 * 4 * 2 * 64 * 2  # keys and values, layers, KV heads, their size, f16


def open_model(folder: Path) -> LoadedModel:
    return load(build_config(folder), lambda _: None)


def test_info_describes_the_folder() -> None:
    progress: list[float] = []
    info = load(build_config(), progress.append).info

    assert (info.architecture, info.vocab_size, info.context_length) == ("llama", 1024, 512)
    assert info.memory_policy is MemoryPolicy.DENSE
    assert info.trained_context_length == 4096
    assert info.backend.startswith("mlx-lm 0.32.")
    assert progress == sorted(progress)
    assert progress[-1] == 1.0


def test_the_estimate_is_that_of_the_load_and_reads_no_weights() -> None:
    mx = load_library().mx
    before = mx.get_active_memory()
    info = estimate(build_config())

    assert mx.get_active_memory() - before < 100_000
    assert info == load(build_config(), lambda _: None).info
    assert info.pool_bytes == {HOST: info.weights_bytes + info.kv_bytes + info.compute_bytes}


def test_the_weights_are_estimated_to_the_byte() -> None:
    tensors = load_file(TINY_MLX / "model.safetensors")

    assert estimate(build_config()).weights_bytes == sum(t.nbytes for t in tensors.values())


@pytest.mark.parametrize(("kv_mode", "cells"), [("unified", 512), ("split", 512 * 4)])
def test_the_caches_are_estimated_with_an_unused_step_for_each_sequence(
    kv_mode: str, cells: int
) -> None:
    info = estimate(build_config(kv_mode=kv_mode))

    assert info.kv_bytes == (cells + 4 * 256) * TOKEN_BYTES


def test_the_import_changes_no_limit_of_open_files() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    load_library()

    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
    assert os.environ["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize("name", ["cache_type_k", "cache_type_v"])
def test_caches_that_mlx_cannot_batch_are_refused_by_name(name: str) -> None:
    changes: dict[str, Any] = {name: "q8_0"}

    with pytest.raises(ModelLoadFailed, match=f"{name} must be f16, and is q8_0"):
        estimate(build_config(**changes))


def test_mlx_still_has_no_batches_of_quantised_caches() -> None:
    """If this fails, `cache_type_k` q8_0 may be possible now."""
    load_library()
    from mlx_lm.models.cache import QuantizedKVCache

    assert not hasattr(QuantizedKVCache, "merge")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_file": "model.py"}, "run its own code"),
        ({"trust_remote_code": True}, "run its own code"),
        ({"model_type": "no_such_model"}, "does not know the model_type"),
        ({"model_type": "../evil"}, "does not name its model_type"),
        ({"model_type": None}, "does not name its model_type"),
        ({"vision_config": {}}, "text models only"),
        ({"quantization": {"bits": 7, "group_size": 64}}, "quantisation that MLX does not know"),
        ({"quantization": "q4"}, "quantisation that MLX does not know"),
        ({"quantization_config": {"quant_method": "x"}}, "quantisation that MLX does not know"),
        ({"hidden_size": 256}, "do not fit the model"),
        ({"num_hidden_layers": 5}, "do not fit the model"),
        ({"hidden_size": "wide"}, "wrong ones"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_a_config_that_cannot_be_loaded_is_refused_in_one_sentence(
    folder: Path, change_config: Callable[..., None], changes: dict[str, Any], reason: str
) -> None:
    change_config(**changes)

    assert_refused(folder, reason)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("config.json", "has no config.json"),
        ("tokenizer.json", "has no tokenizer.json"),
        ("model.safetensors", "has no safetensors"),
    ],
)
def test_a_missing_file_is_named(folder: Path, name: str, reason: str) -> None:
    (folder / name).unlink()

    assert_refused(folder, reason)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("config.json", "not valid JSON"),
        ("tokenizer.json", "not valid JSON"),
        ("model.safetensors", "damaged or incomplete"),
    ],
)
def test_a_truncated_file_is_named(folder: Path, name: str, reason: str) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    assert_refused(folder, reason)


def test_a_tokenizer_of_an_unknown_kind_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")

    assert_refused(folder, "unknown kind")


def test_a_tensor_of_another_shape_is_refused(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = np.ones(64, np.float16)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "mlx"})

    assert_refused(folder, "do not fit the model")


def test_code_in_the_tokenizer_config_is_refused(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"trust_remote_code": True}))

    assert_refused(folder, "run its own code")


def assert_refused(folder: Path, reason: str) -> None:
    with pytest.raises(ModelLoadFailed, match=reason) as caught:
        open_model(folder)

    assert str(folder) not in caught.value.message
    assert "\n" not in caught.value.message
