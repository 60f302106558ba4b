"""Dimensions and special tokens of the tiny model, for training and every exporter."""

from __future__ import annotations

from pathlib import Path

VOCABULARY = 1024
EMBEDDING = 128
LAYERS = 4
HEADS = 4
KV_HEADS = 2
HEAD_SIZE = 64  # a multiple of 64, which the quantised KV caches of llama.cpp and MLX require
FEED_FORWARD = 384
CONTEXT = 4096
ROPE_BASE = 10000.0
EPSILON = 1e-5

# As in the vocabularies of Qwen: detokenisers hide control tokens and print user-defined ones.
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
USER_DEFINED = (
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
)
PADDING = "<|endoftext|>"
END_OF_TURN = "<|im_end|>"

# The split of llama.cpp's pre-tokeniser "qwen2".
PRE_TOKENISER = "qwen2"
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = (Path(__file__).parent / "chat_template.jinja").read_text().strip()
