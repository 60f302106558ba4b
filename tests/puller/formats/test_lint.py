"""Refusal of program code, and warnings about files that llama.cpp may not load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from services.puller.formats.describe import describe_model
from services.puller.formats.gguf.description import check_gguf
from services.puller.formats.gguf.header import read_header
from services.puller.formats.lint import check_file_names, lint_gguf
from services.puller.formats.mlx.safetensors import read_safetensors
from services.shared.errors import InvalidModelFile
from services.shared.store.manifest import FileRole, StoredFile
from tests.puller.formats.gguf.writer import METADATA, TENSORS, TensorSpec, write_gguf
from tests.puller.formats.mlx.writer import TENSORS as MLX_TENSORS
from tests.puller.formats.mlx.writer import safetensors, with_header, write_mlx


def describe_mlx_folder(folder: Path) -> None:
    files: dict[StoredFile, Path] = {}
    for path in sorted(folder.iterdir()):
        role = FileRole.MODEL if path.suffix == ".safetensors" else FileRole.CONFIG
        file = StoredFile(
            role=role, path=path.name, digest=f"sha256:{len(files):064x}", size_bytes=1
        )
        files[file] = path
    describe_model(list(files), files.__getitem__)


@pytest.mark.parametrize(
    "path", ["modeling_x.py", "sub/tokenizer.PY", "lib.so", "run.sh"], ids=lambda path: path
)
def test_program_code_is_refused(path: str) -> None:
    with pytest.raises(InvalidModelFile, match="program code"):
        check_file_names(["config.json", path])


@pytest.mark.parametrize("path", ["pytorch_model.bin", "x.pt", "x.pth", "x.pkl", "x.ckpt", "w.npz"])
def test_pickles_are_refused(path: str) -> None:
    with pytest.raises(InvalidModelFile, match="pickled"):
        check_file_names([path])


def lint_file(tmp_path: Path, changes: dict[str, Any], **more: Any) -> list[str]:
    path = tmp_path / "m.gguf"
    path.write_bytes(write_gguf(changes, **more))
    return lint_gguf([read_header(path)])


def renamed(architecture: str, **changes: Any) -> dict[str, Any]:
    removed = {k: None for k in METADATA if k.startswith("llama.")}
    named = {k.replace("llama.", f"{architecture}."): v for k, v in METADATA.items()}
    return removed | named | {"general.architecture": architecture} | changes


def test_an_ordinary_file_has_no_warnings(tmp_path: Path) -> None:
    assert lint_file(tmp_path, {}) == []


@pytest.mark.parametrize("architecture", ["gptoss", "qwen25vl", "olmo3", "glm4moelite"])
def test_ollamas_own_architectures_are_refused(tmp_path: Path, architecture: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(write_gguf(renamed(architecture)))

    with pytest.raises(InvalidModelFile, match=r"Ollama's own engine.*pull a GGUF of it"):
        check_gguf([read_header(path)])


@pytest.mark.parametrize(
    "changes",
    [
        renamed("gemma3"),
        renamed("gemma4", **{"tokenizer.ggml.model": "llama", "tokenizer.ggml.scores": [0.0] * 4}),
        renamed("qwen35", **{"qwen35.attention.head_count_kv": [0, 2]}),
        renamed("qwen3vl"),
        renamed("lfm2"),
    ],
    ids=["gemma3", "gemma4", "qwen35", "qwen3vl", "lfm2"],
)
def test_headers_made_for_ollama_are_warned_about(tmp_path: Path, changes: dict[str, Any]) -> None:
    (warning,) = lint_file(tmp_path, changes)

    assert "not what llama.cpp expects" in warning


def test_a_vision_tower_inside_the_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    tensors = [*TENSORS, TensorSpec("v.patch_embd.weight", (4,))]
    path.write_bytes(write_gguf({}, tensors=tensors))

    with pytest.raises(InvalidModelFile, match="vision or audio part"):
        check_gguf([read_header(path)])


def test_an_old_conversion_is_warned_about(tmp_path: Path) -> None:
    (warning,) = lint_file(tmp_path, {"tokenizer.ggml.pre": None})

    assert "old conversion" in warning


def test_more_embedding_rows_than_tokens_are_warned_about(tmp_path: Path) -> None:
    (warning,) = lint_file(tmp_path, {}, tensors=[TensorSpec("token_embd.weight", (4, 9))])

    assert "4 tokens but 9 embedding rows" in warning


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"config.json": {"model_file": "evil.py"}}, "names a Python file"),
        ({"config.json": {"trust_remote_code": True}}, "run its own code"),
        ({"tokenizer_config.json": {"trust_remote_code": True}}, "run its own code"),
        ({"config.json": None}, "no config.json"),
        ({"config.json": b"{" * 100}, "not valid JSON"),
        ({"config.json": b"[" * 100000}, "not valid JSON"),
        ({"config.json": b"[]"}, "not a JSON object"),
        ({"config.json": {"model_type": "../evil"}}, "model_type"),
        ({"config.json": {"model_type": None}}, "model_type"),
        ({"config.json": {"model_type": "bert"}}, "not a language model"),
        ({"config.json": {"num_hidden_layers": 10**9}}, "damaged"),
        ({"config.json": {"hidden_size": -1}}, "damaged"),
        ({"config.json": {"quantization": {"bits": 99}}}, "99 bits"),
        ({"tokenizer.json": None}, "tokenizer is incomplete"),
        ({"modeling_llama.py": b"import os"}, "program code"),
        ({"pytorch_model.bin": b"x"}, "pickled"),
        ({"model.safetensors.index.json": {"weight_map": {"a": "b.safetensors"}}}, "missing"),
        ({"model.safetensors": b"x" * 40}, "safetensors"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value,
)
def test_an_mlx_folder_that_must_not_be_served_is_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidModelFile, match=words):
        describe_mlx_folder(write_mlx(tmp_path, changes))


def entry(shape: list[int], begin: int, end: int, dtype: str = "F16") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


HOSTILE = {
    "empty": (b"", "truncated"),
    "a header longer than the file": (b"\xff" * 8 + b"{}", "truncated"),
    "no json": ((2).to_bytes(8, "little") + b"xx", "damaged"),
    "deep json": ((10**5).to_bytes(8, "little") + b"[" * 10**5, "damaged"),
    "a list": (with_header([], 0), "damaged"),
    "unknown type": (with_header({"a": entry([1], 0, 2, "X9")}, 2), "unknown type"),
    "negative length": (with_header({"a": entry([-1], 0, 2)}, 2), "unknown type or shape"),
    "another size": (with_header({"a": entry([9], 0, 2)}, 2), "not as large"),
    "reversed": (with_header({"a": entry([0], 4, 2)}, 4), "not as large"),
    "overlapping": (with_header({"a": entry([2], 0, 4), "b": entry([2], 2, 6)}, 6), "overlaps"),
    "a hole": (with_header({"a": entry([1], 0, 2), "b": entry([1], 4, 6)}, 6), "no tensor"),
    "beyond the end": (with_header({"a": entry([9], 0, 18)}, 2), "truncated"),
    "bytes behind": (with_header({"a": entry([1], 0, 2)}, 9), "no tensor"),
    "huge": (with_header({"a": entry([2**62, 2**62], 0, 2)}, 2), "not as large"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_safetensors_header_is_refused(name: str, tmp_path: Path) -> None:
    data, words = HOSTILE[name]
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)

    with pytest.raises(InvalidModelFile, match=words):
        read_safetensors(path)


def test_safetensors_headers_are_read(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(safetensors())

    tensors = read_safetensors(path)

    assert {t.name: (t.dtype, list(t.shape)) for t in tensors} == MLX_TENSORS
