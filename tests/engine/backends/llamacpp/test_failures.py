from __future__ import annotations

import pytest

from services.engine.backends.llamacpp.failures import build_load_error
from services.shared.errors import InsufficientMemory, ModelLoadFailed

GENERAL = "llama_model_load_from_file_impl: failed to load model"


@pytest.mark.parametrize(
    ("line", "expected_text"),
    [
        ("gguf_init_from_reader: invalid magic characters: 'GGML', expected 'GGUF'", "not a GGUF"),
        ("gguf_init_from_reader: failed to read key-value pairs", "truncated"),
        ("tensor 'blk.2.ffn_gate.weight' data is not within the file bounds", "truncated"),
        ("error loading model: unknown model architecture: 'newmodel'", "'newmodel'"),
        ("llama_init_from_model: V cache quantization requires flash_attn", "flash attention"),
        ("check_tensor_dims: tensor 'token_embd.weight' not found", "lacks weights"),
        (
            "check_tensor_dims: tensor 'output.weight' has wrong shape; expected 1, got 2",
            "damaged",
        ),
        ("something unknown", "see the log"),
    ],
)
def test_the_message_is_a_sentence_without_paths(line: str, expected_text: str) -> None:
    error = build_load_error([line, "error loading model: from /srv/models/secret.gguf", GENERAL])

    assert type(error) is ModelLoadFailed
    assert expected_text in error.message
    assert "/srv" not in error.message


@pytest.mark.parametrize(
    "line",
    [
        "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 900 MiB: cudaMalloc failed",
        "alloc_tensor_range: failed to allocate CPU buffer of size 99999999",
        "ggml_gallocr_reserve_n_impl: failed to allocate CUDA0 buffer of size 12",
    ],
)
def test_a_lack_of_memory_has_its_own_error(line: str) -> None:
    assert isinstance(build_load_error([line, GENERAL]), InsufficientMemory)
