"""Write the tiny model as an MLX folder, as f16 or in MLX's 8-bit layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from tests.models.make_tiny import shape

Weights = Mapping[str, NDArray[np.floating]]

BITS = 8
GROUP = 64


def write_mlx(weights: Weights, tokenizer_json: str, folder: Path, *, quantised: bool) -> None:
    """Write config.json, tokenizer files, template and weights, as mlx-lm reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = _read_special_ids(json.loads(tokenizer_json))
    _write(folder / "tokenizer.json", tokenizer_json)
    _write(folder / "tokenizer_config.json", _to_json(_build_tokenizer_config(ids)))
    _write(folder / "chat_template.jinja", shape.CHAT_TEMPLATE)
    _write(folder / "config.json", _to_json(_build_config(ids, quantised)))
    halves = {name: weight.astype(np.float16) for name, weight in weights.items()}
    tensors: dict[str, NDArray[Any]] = _quantise_matrices(halves) if quantised else dict(halves)
    # `save_file` would create a file that only its owner may read.
    (folder / "model.safetensors").write_bytes(save(tensors, metadata={"format": "mlx"}))


def quantise_affine(
    weight: NDArray[np.float16],
) -> tuple[NDArray[np.uint32], NDArray[np.float16], NDArray[np.float16]]:
    """Quantise to MLX's affine layout; returns packed values, scales and biases.

    Values are packed into uint32, little-endian. Every group has one scale and one bias.
    """
    rows, columns = weight.shape
    groups = weight.astype(np.float32).reshape(rows, columns // GROUP, GROUP)
    low, high = groups.min(-1, keepdims=True), groups.max(-1, keepdims=True)
    # Round scale and bias to f16 before use, because dequantisation reads them as f16.
    scale = np.maximum((high - low) / (2**BITS - 1), 1e-7).astype(np.float16).astype(np.float32)
    bias = low.astype(np.float16).astype(np.float32)
    steps = np.clip(np.rint((groups - bias) / scale), 0, 2**BITS - 1)
    packed = steps.astype(np.uint8).reshape(rows, columns).view("<u4")
    return packed, scale[..., 0].astype(np.float16), bias[..., 0].astype(np.float16)


def _quantise_matrices(weights: Mapping[str, NDArray[np.float16]]) -> dict[str, NDArray[Any]]:
    made: dict[str, NDArray[Any]] = {}
    for name, weight in weights.items():
        if weight.ndim == 1:
            made[name] = weight
            continue
        base = name.removesuffix(".weight")
        made[name], made[base + ".scales"], made[base + ".biases"] = quantise_affine(weight)
    return made


def _read_special_ids(tokenizer: dict[str, Any]) -> dict[str, int]:
    return {added["content"]: added["id"] for added in tokenizer["added_tokens"]}


def _build_tokenizer_config(ids: dict[str, int]) -> dict[str, Any]:
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    added = {
        str(ids[token]): {"content": token, **plain, "special": token in shape.CONTROL}
        for token in shape.CONTROL + shape.USER_DEFINED
    }
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "bos_token": None,
        "chat_template": shape.CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": shape.END_OF_TURN,
        "model_max_length": shape.CONTEXT,
        "pad_token": shape.PADDING,
        "split_special_tokens": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    }


def _build_config(ids: dict[str, int], quantised: bool) -> dict[str, Any]:
    layout = {"group_size": GROUP, "bits": BITS, "mode": "affine"}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.EMBEDDING,
        "num_hidden_layers": shape.LAYERS,
        "intermediate_size": shape.FEED_FORWARD,
        "num_attention_heads": shape.HEADS,
        "num_key_value_heads": shape.KV_HEADS,
        "head_dim": shape.HEAD_SIZE,
        "rms_norm_eps": shape.EPSILON,
        "vocab_size": shape.VOCABULARY,
        "max_position_embeddings": shape.CONTEXT,
        "rope_theta": shape.ROPE_BASE,
        "rope_scaling": None,
        "attention_bias": False,
        "mlp_bias": False,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
        "bos_token_id": None,
        "eos_token_id": [ids[shape.END_OF_TURN], ids[shape.PADDING]],
        "pad_token_id": ids[shape.PADDING],
    } | ({"quantization": layout, "quantization_config": layout} if quantised else {})


def _to_json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
