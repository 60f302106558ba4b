"""Check an MLX folder before mlx-lm reads it: complete, known, and without code of its own.

The puller checks most of this too, before it stores a model. But a folder may be older than its
checks, and a runner trusts no file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from services.shared.errors import ModelLoadFailed

_MAX_JSON_BYTES = 64 << 20  # the tokenizer.json of Gemma has 33 MB
_MODEL_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")  # one module of mlx_lm.models
_BITS = frozenset({2, 3, 4, 5, 6, 8})
_GROUP_SIZES = frozenset({16, 32, 64, 128})
_MODES = frozenset({"affine", "mxfp4", "mxfp8", "nvfp4"})
_METHODS = frozenset(
    {"awq", "bitnet", "compressed-tensors", "fp8", "gptq", "modelopt", "mxfp4", "mxfp8"}
)


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.json and check the folder. Raises ModelLoadFailed with a reason."""
    config = read_json(folder, "config.json")
    if config is None:
        raise ModelLoadFailed("the folder has no config.json")
    _check_code(config, read_json(folder, "tokenizer_config.json") or {})
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not _MODEL_TYPE.fullmatch(model_type):
        raise ModelLoadFailed("config.json does not name its model_type")
    if any(isinstance(config.get(name), dict) for name in ("vision_config", "audio_config")):
        raise ModelLoadFailed(
            "this model has a part for pictures or sound; the MLX engine runs text models only"
        )
    _check_quantization(config)
    if not (folder / "tokenizer.json").is_file():
        raise ModelLoadFailed("the folder has no tokenizer.json")
    if not any(folder.glob("model*.safetensors")):
        raise ModelLoadFailed("the folder has no safetensors weights")
    return config


def read_json(folder: Path, name: str) -> dict[str, Any] | None:
    """A JSON object, or None without such a file. Raises ModelLoadFailed for anything else."""
    path = folder / name
    if not path.is_file():
        return None
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise ModelLoadFailed(f"{name} is larger than any real one")
    try:
        value = msgspec.json.decode(path.read_bytes())
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ModelLoadFailed(f"{name} is not valid JSON") from error
    if not isinstance(value, dict):
        raise ModelLoadFailed(f"{name} is not a JSON object")
    return value


def find_text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of the text model, which some models nest."""
    nested = config.get("text_config")
    return nested if isinstance(nested, dict) else config


def read_end_tokens(folder: Path, config: Mapping[str, Any]) -> set[int]:
    """The ids that end an answer: those of the configuration, and the tokenizer's own.

    generation_config.json has precedence over config.json, as in mlx-lm.
    """
    generation = read_json(folder, "generation_config.json") or {}
    value = generation.get("eos_token_id")
    if value is None:
        value = find_text_config(config).get("eos_token_id", config.get("eos_token_id"))
    values = value if isinstance(value, list) else [value]
    return {v for v in values if isinstance(v, int)} | _find_own_end(folder)


def _find_own_end(folder: Path) -> set[int]:
    """The `eos_token` of tokenizer_config.json, which is a string or an object with one."""
    text = (read_json(folder, "tokenizer_config.json") or {}).get("eos_token")
    if isinstance(text, dict):
        text = text.get("content")
    added = (read_json(folder, "tokenizer.json") or {}).get("added_tokens")
    tokens = [t for t in added if isinstance(t, dict)] if isinstance(added, list) else []
    return {t["id"] for t in tokens if t.get("content") == text and isinstance(t.get("id"), int)}


def _check_code(*configs: Mapping[str, Any]) -> None:
    for config in configs:
        if "model_file" in config or config.get("trust_remote_code"):
            raise ModelLoadFailed("the model asks to run its own code; such models are refused")


def _check_quantization(config: Mapping[str, Any]) -> None:
    own = config.get("quantization")
    if own is not None:
        is_known = (
            isinstance(own, dict)
            and own.get("bits") in _BITS
            and own.get("group_size") in _GROUP_SIZES
            and own.get("mode", "affine") in _MODES
        )
        if not is_known:
            raise ModelLoadFailed("config.json has a quantisation that MLX does not know")
        return
    foreign = find_text_config(config).get("quantization_config", config.get("quantization_config"))
    if foreign and not (isinstance(foreign, dict) and foreign.get("quant_method") in _METHODS):
        raise ModelLoadFailed("config.json has a quantisation that MLX does not know")
