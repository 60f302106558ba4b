"""The puller and llama.cpp read the same facts from a header."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from services.puller.formats.architectures import OLLAMA_NAMES, PARTS
from services.puller.formats.engine_support import llama_cpp_architectures
from services.puller.formats.gguf.header import read_header
from services.puller.formats.gguf.tokenizer import read_special_tokens
from tests.conftest import ROOT
from tests.puller.formats.gguf.writer import METADATA, write_gguf

CHECK_ARCHITECTURES = """
import ctypes, sys, llama_cpp
messages = []
@llama_cpp.llama_log_callback
def log(level, text, data):
    messages.append(text)
llama_cpp.llama_log_set(log, ctypes.c_void_p(0))
parameters = llama_cpp.llama_model_default_params()
parameters.vocab_only = True
for path in sys.argv[1:]:
    messages.clear()
    llama_cpp.llama_model_load_from_file(path.encode(), parameters)
    print(int(b"unknown model architecture" in b"".join(messages)))
"""


def test_the_listed_architectures_are_those_of_llama_cpp(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    unloadable = [*OLLAMA_NAMES, "no-such"]
    names = [*sorted(llama_cpp_architectures()), *unloadable]
    paths = []
    for name in names:
        path = tmp_path / f"{name}.gguf"
        only: dict[str, Any] = dict.fromkeys(METADATA) | {"general.architecture": name}
        path.write_bytes(write_gguf(only, tensors=()))
        paths.append(str(path))

    answer = subprocess.run(
        [sys.executable, "-c", CHECK_ARCHITECTURES, *paths],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )

    unknown = [n for n, line in zip(names, answer.stdout.split(), strict=True) if line == "1"]
    assert unknown == unloadable
    assert not PARTS.keys() & llama_cpp_architectures()


PRINT_END_TOKENS = """
import ctypes, sys, llama_cpp
@llama_cpp.llama_log_callback
def log(level, text, data):
    pass
llama_cpp.llama_log_set(log, ctypes.c_void_p(0))
parameters = llama_cpp.llama_model_default_params()
parameters.vocab_only = True
model = llama_cpp.llama_model_load_from_file(sys.argv[1].encode(), parameters)
vocab = llama_cpp.llama_model_get_vocab(model)
count = llama_cpp.llama_vocab_n_tokens(vocab)
print(*(i for i in range(count) if llama_cpp.llama_vocab_is_eog(vocab, i)))
print(int(llama_cpp.llama_vocab_get_add_bos(vocab)))
"""


@pytest.mark.parametrize(
    "changes",
    [
        {"tokenizer.ggml.tokens": ["a", "b", "<|end|>", "<|return|>", "<|call|>", "<EOT>"]},
        {"tokenizer.ggml.tokens": ["a", "b", "<|end|>", "<eos>", "[EOT]", "<turn|>"]},
        {"tokenizer.ggml.tokens": ["a", "b", "<|end|>", "<|calls|>", "<|flush|>", "x"]},
        {"tokenizer.ggml.pre": "llama-bpe"},
        {"tokenizer.ggml.pre": "tekken"},
        {"tokenizer.ggml.eot_token_id": 0},
    ],
    ids=["harmony", "others", "calls", "llama 3", "tekken", "eot"],
)
def test_end_tokens_and_bos_are_those_of_llama_cpp(tmp_path: Path, changes: dict[str, Any]) -> None:
    pytest.importorskip("llama_cpp")
    tokens = changes.get("tokenizer.ggml.tokens", METADATA["tokenizer.ggml.tokens"])
    hyper: dict[str, Any] = {"llama.feed_forward_length": 4, "llama.attention.head_count": 1}
    hyper |= {"llama.attention.layer_norm_rms_epsilon": 1e-5, "tokenizer.ggml.eos_token_id": 0}
    kinds = {"tokenizer.ggml.token_type": [1, 1] + [3] * (len(tokens) - 2)}
    path = tmp_path / "m.gguf"
    path.write_bytes(write_gguf(hyper | kinds | changes))

    answer = subprocess.run(
        [sys.executable, "-c", PRINT_END_TOKENS, str(path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    ).stdout.splitlines()

    found = read_special_tokens(read_header(path))
    assert set(found.ending) == {tokens[int(i)] for i in answer[0].split()}
    assert found.add_bos == (answer[1] == "1")
