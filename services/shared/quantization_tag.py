"""Recognise the tags of a Hugging Face repository: quantisations and formats.

Any other tag belongs to a model in a registry.
"""

from __future__ import annotations

import re

# llama.cpp's file types as hub files spell them, the bit widths of MLX, and the two formats.
_QUANTIZATION_TAG = re.compile(
    r"(?:ud-)?(?:i?q[1-9](?:_[a-z0-9_]+)?|tq[12]_0|b?f16|fp16|f32|fp32|mxfp4(?:_moe)?|nvfp4)"
    r"|[1-8]bit|mlx|gguf",
    re.IGNORECASE,
)


def is_quantization_tag(tag: str) -> bool:
    """Whether a tag is a quantisation (`Q4_K_M`, `UD-Q4_K_XL`, `4bit`), `mlx` or `gguf`."""
    return _QUANTIZATION_TAG.fullmatch(tag) is not None
