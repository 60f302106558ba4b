"""Why a model did not load, in words for its owner.

llama.cpp's API says NULL; its log has the reason, with paths and names of C++ functions in it. A
client gets a sentence of ours, the log keeps the vendor's line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from services.shared.errors import InsufficientMemory, ModelLoadFailed

_NO_MEMORY = "not enough memory for the model with these settings"

# In the order they are tried: a log holds several lines, the particular ones come first here.
_REASONS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), sentence)
    for pattern, sentence in (
        (r"invalid magic characters", "the file is not a GGUF model: its first bytes say so"),
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
            "the model file is truncated: it ends before its data does; pull it again",
        ),
        (
            r"failed to allocate|out of memory|unable to allocate|cudaMalloc failed|bad_alloc",
            _NO_MEMORY,
        ),
        (r"failed to open|No such file", "the model file cannot be opened"),
        (
            r"tensor '[^']*' not found|missing tensor",
            "the model file lacks weights it should have",
        ),
        (r"V cache quantization requires flash", "a quantised V cache needs flash attention"),
        (
            r"wrong (?:shape|type)|check_tensor_dims|invalid (?:tensor|n_)|corrupt",
            "the model file is damaged: its tensors do not fit its own description",
        ),
        (
            r"key not found in model|error loading model hyperparameters",
            "the file's header lacks what its architecture needs",
        ),
        (r"no backends are loaded", "this installation of llama.cpp has no compute backend"),
    )
)


def build_load_error(lines: Iterable[str]) -> ModelLoadFailed:
    """An error whose message has no paths, addresses or vendor text."""
    log = "\n".join(lines)
    for pattern, sentence in _REASONS:
        if found := pattern.search(log):
            named = {key: value for key, value in found.groupdict().items() if value}
            failure = InsufficientMemory if sentence is _NO_MEMORY else ModelLoadFailed
            return failure(sentence.format(**named) if named else sentence)
    return ModelLoadFailed("llama.cpp refused the model; the engine's log has its words")
