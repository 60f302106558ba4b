"""Explain to an operator why a model did not load.

llama.cpp's API returns only NULL. The reason is in its log, together with paths and names of C++
functions. A client gets one of the sentences below; our log gets the lines of llama.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from services.shared.errors import InsufficientMemory, ModelLoadFailed

_NO_MEMORY = "not enough memory for the model with these settings"

# In the order in which they are tried: a log has several lines, so specific reasons come first.
_REASONS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), sentence)
    for pattern, sentence in (
        (r"invalid magic characters", "the file is not a GGUF model: it begins with other bytes"),
        (
            r"unknown model architecture: '(?P<name>[\w.-]{1,40})'",
            "this version of llama.cpp does not know the architecture {name!r}",
        ),
        (
            r"unknown pre-tokenizer type: '(?P<name>[\w.-]{1,40})'",
            "this version of llama.cpp does not know the tokenizer {name!r}",
        ),
        (
            r"GGUF file is version (?P<name>\d+)",
            "this version of llama.cpp does not know GGUF version {name}",
        ),
        (
            r"not within the file bounds|failed to read|unexpectedly reached end of file|read error",
            "the model file is truncated: its data is incomplete; pull it again",
        ),
        (
            r"failed to allocate|out of memory|unable to allocate|cudaMalloc failed|bad_alloc",
            _NO_MEMORY,
        ),
        (r"failed to open|No such file", "the model file cannot be opened"),
        (
            r"tensor '[^']*' not found|missing tensor",
            "the model file lacks weights that its architecture needs",
        ),
        (
            r"V cache quantization requires flash|quantized V cache (?:was requested|requires)",
            "a quantised V cache needs flash attention",
        ),
        (
            r"cache type (?P<name>\w{1,8}) with block size \d+ does not divide",
            "this model's heads are too small for a cache of type {name}: use f16",
        ),
        (
            r"does not support different K \(\w+\) and V",
            "this model needs one type for the keys and the values of its cache",
        ),
        (
            r"wrong (?:shape|type)|check_tensor_dims|invalid (?:tensor|n_)|corrupt",
            "the model file is damaged: its tensors do not match its header",
        ),
        (
            r"key not found in model|error loading model hyperparameters",
            "the header of the file lacks values that its architecture needs",
        ),
        (r"no backends are loaded", "this installation of llama.cpp has no compute backend"),
    )
)


def build_load_error(lines: Iterable[str]) -> ModelLoadFailed:
    """Build the error, with a message without paths, addresses or text of llama.cpp."""
    log = "\n".join(lines)
    for pattern, sentence in _REASONS:
        if found := pattern.search(log):
            named = {key: value for key, value in found.groupdict().items() if value}
            failure = InsufficientMemory if sentence is _NO_MEMORY else ModelLoadFailed
            return failure(sentence.format(**named) if named else sentence)
    return ModelLoadFailed("llama.cpp could not load the model; see the log of the engine")
