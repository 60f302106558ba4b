"""Write an MLX model folder of a few hundred bytes, in which any part can be wrong."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "max_position_embeddings": 256,
    "eos_token_id": [7],
}
TOKENIZER: dict[str, Any] = {
    "added_tokens": [
        {"id": 6, "content": "<think>", "special": False},
        {"id": 7, "content": "<|im_end|>", "special": True},
    ]
}
TENSORS: dict[str, tuple[str, list[int]]] = {
    "model.embed_tokens.weight": ("U32", [16, 8]),
    "model.embed_tokens.scales": ("F16", [16, 1]),
    "model.embed_tokens.biases": ("F16", [16, 1]),
    "model.norm.weight": ("F16", [64]),
}
_BYTES = {"U32": 4, "F16": 2}


def safetensors(tensors: Mapping[str, tuple[str, list[int]]] = TENSORS) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    position = 0
    for name, (dtype, shape) in tensors.items():
        size = _BYTES[dtype]
        for length in shape:
            size *= length
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + size]}
        position += size
    return with_header(header, position)


def with_header(header: Any, data_bytes: int) -> bytes:
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + b"\0" * data_bytes


def write_mlx(folder: Path, changes: Mapping[str, Any] | None = None) -> Path:
    """Write a 4-bit llama; `changes` by file name: an object (merged), bytes, or None."""
    files: dict[str, Any] = {
        "config.json": CONFIG | {"quantization": {"bits": 4, "group_size": 64}},
        "tokenizer.json": TOKENIZER,
        "tokenizer_config.json": {
            "eos_token": {"content": "<|im_end|>"},
            "chat_template": TEMPLATE,
        },
        "model.safetensors": safetensors(),
    }
    for name, change in (changes or {}).items():
        files[name] = files.get(name, {}) | change if isinstance(change, dict) else change
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if content is not None:
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            (folder / name).write_bytes(data)
    return folder
