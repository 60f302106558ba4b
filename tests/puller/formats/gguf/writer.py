"""Write GGUF files of a few hundred bytes, in which any field can be wrong."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STRING, ARRAY = 8, 9


@dataclass(frozen=True)
class TensorSpec:
    """One tensor to write; `offset` None means the correct one."""

    name: str
    shape: Sequence[int]
    type: int = 0
    size_bytes: int | None = None
    offset: int | None = None


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def typed(value: Any) -> bytes:
    """A value after its type, which is the one that llama.cpp's converter would use."""
    if isinstance(value, bytes):
        return value  # already typed, or meant to be wrong
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, str):
        return struct.pack("<I", STRING) + text(value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if value and isinstance(value[0], str):
        return struct.pack("<IIQ", ARRAY, STRING, len(value)) + b"".join(text(v) for v in value)
    if value and isinstance(value[0], float):
        return struct.pack(f"<IIQ{len(value)}f", ARRAY, 6, len(value), *value)
    return struct.pack(f"<IIQ{len(value)}i", ARRAY, 5, len(value), *value)


METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "general.name": "Small Test",
    "general.file_type": 1,
    "llama.context_length": 128,
    "llama.embedding_length": 4,
    "llama.block_count": 1,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "qwen2",
    "tokenizer.ggml.tokens": ["a", "b", "<|im_start|>", "<|im_end|>"],
    "tokenizer.ggml.token_type": [1, 1, 3, 3],
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.bos_token_id": 2,
    "tokenizer.ggml.eos_token_id": 3,
}
TENSORS = (TensorSpec("token_embd.weight", (4, 4)), TensorSpec("output_norm.weight", (4,)))


def write_gguf(
    changes: Mapping[str, Any] | None = None,
    *,
    tensors: Sequence[TensorSpec] = TENSORS,
    data: bytes | None = None,
    magic: bytes = b"GGUF",
    version: int = 3,
    tensor_count: int | None = None,
    key_count: int | None = None,
    alignment: int = 32,
) -> bytes:
    """Write a small llama. `changes` replace metadata; None removes a key."""
    metadata = {k: v for k, v in (METADATA | dict(changes or {})).items() if v is not None}
    head = magic + struct.pack(
        "<IQQ",
        version,
        len(tensors) if tensor_count is None else tensor_count,
        len(metadata) if key_count is None else key_count,
    )
    head += b"".join(text(key) + typed(value) for key, value in metadata.items())
    position = 0
    for tensor in tensors:
        size = tensor.size_bytes
        if size is None:
            size = 4
            for length in tensor.shape:
                size *= length
        offset = position if tensor.offset is None else tensor.offset
        head += text(tensor.name) + struct.pack("<I", len(tensor.shape))
        head += struct.pack(f"<{len(tensor.shape)}QIQ", *tensor.shape, tensor.type, offset)
        position += -(-size // alignment) * alignment
    head += b"\0" * (-len(head) % alignment)
    return head + (b"\0" * position if data is None else data)
