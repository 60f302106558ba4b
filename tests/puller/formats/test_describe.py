"""The description of a model, and the models that are refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.puller.formats import engine_support
from services.puller.formats.describe import describe_model
from services.puller.formats.gguf.header import read_header
from services.shared.errors import InvalidModelFile
from services.shared.store.manifest import Capability, Description, FileRole, StoredFile
from tests.conftest import SHARED, TINY_GGUF
from tests.puller.formats.gguf.writer import METADATA, TENSORS, TensorSpec, write_gguf
from tests.puller.formats.mlx.writer import write_mlx

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MLX_FOLDERS = SHARED / "data" / "tiny-chat"


def describe_folder(folder: Path, roles: dict[str, FileRole] | None = None) -> Description:
    """Describe the files of a folder. Roles by name; default: MODEL for weights, else CONFIG."""
    files: dict[StoredFile, Path] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        weights = path.suffix in (".gguf", ".safetensors")
        role = (roles or {}).get(path.name, FileRole.MODEL if weights else FileRole.CONFIG)
        name = path.relative_to(folder).as_posix()
        file = StoredFile(
            role=role, path=name, digest=f"sha256:{len(files):064x}", size_bytes=path.stat().st_size
        )
        files[file] = path
    return describe_model(list(files), files.__getitem__)


def describe_gguf_file(
    tmp_path: Path, changes: dict[str, Any] | None = None, **more: Any
) -> Description:
    (tmp_path / "m.gguf").write_bytes(write_gguf(changes, **more))
    return describe_folder(tmp_path)


def test_the_tiny_model_is_described() -> None:
    tiny = StoredFile(role=FileRole.MODEL, path="m.gguf", digest="sha256:" + "0" * 64, size_bytes=1)

    found = describe_model([tiny], lambda _: TINY_GGUF)

    assert msgspec.structs.replace(found, chat_template=None) == Description(
        format="gguf",
        architecture="llama",
        parameter_count=found.parameter_count,
        context_length=4096,
        embedding_length=128,
        quantization="F16",
        base_model="tiny-test",
        capabilities=(
            Capability.COMPLETION,
            Capability.CHAT,
            Capability.TOOLS,
            Capability.THINKING,
        ),
        template_source="gguf",
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>",
        control_tokens=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        user_defined_tokens=(
            "</tool_response>",
            "<tool_response>",
            "</tool_call>",
            "<tool_call>",
            "</think>",
            "<think>",
        ),
        stop_tokens=("<|endoftext|>", "<|im_end|>"),
    )
    assert found.chat_template == read_header(TINY_GGUF).text("tokenizer.chat_template")
    assert found.parameter_count == 1115264


def test_a_gguf_without_a_template_only_completes_text_with_a_warning(tmp_path: Path) -> None:
    found = describe_gguf_file(tmp_path)

    assert found.capabilities == (Capability.COMPLETION,)
    assert "no chat template" in found.warnings[0]


@pytest.mark.parametrize(
    "template", ["{{ raise_exception('never') }}", "{% for %}", "{{ a.b.c }}", "{% include 'x' %}"]
)
def test_a_failing_template_disables_chat_but_not_the_model(tmp_path: Path, template: str) -> None:
    found = describe_gguf_file(tmp_path, {"tokenizer.chat_template": template})

    assert (found.chat_template, found.capabilities) == (None, (Capability.COMPLETION,))
    assert "cannot be used" in found.warnings[0]


def test_windows_line_ends_do_not_reach_the_prompt(tmp_path: Path) -> None:
    found = describe_gguf_file(tmp_path, {"tokenizer.chat_template": CHATML.replace("\n", "\r\n")})

    assert found.chat_template == CHATML


@pytest.mark.parametrize(
    ("changes", "capabilities"),
    [
        ({"llama.pooling_type": 3}, (Capability.EMBEDDINGS,)),
        ({"llama.pooling_type": 4}, (Capability.RERANK,)),
        ({"llama.pooling_type": 0}, (Capability.COMPLETION,)),
        ({"tokenizer.chat_template": CHATML}, (Capability.COMPLETION, Capability.CHAT)),
        ({"tokenizer.chat_template": CHATML, "llama.pooling_type": 3}, (Capability.EMBEDDINGS,)),
    ],
    ids=["pooling", "ranking", "no pooling", "template", "pooling with a template"],
)
def test_capabilities_follow_the_header(
    tmp_path: Path, changes: dict[str, Any], capabilities: tuple[Capability, ...]
) -> None:
    assert describe_gguf_file(tmp_path, changes).capabilities == capabilities


def test_an_encoder_embeds(tmp_path: Path) -> None:
    renamed = {k.replace("llama.", "bert."): v for k, v in METADATA.items()}
    removed = {k: None for k in METADATA if k.startswith("llama.")}
    changes = {**removed, **renamed, "general.architecture": "bert"}

    assert describe_gguf_file(tmp_path, changes).capabilities == (Capability.EMBEDDINGS,)


def test_without_a_file_type_the_largest_tensors_define_the_quantisation(tmp_path: Path) -> None:
    tensors = [TensorSpec("token_embd.weight", (32, 4), type=8, size_bytes=136), TENSORS[1]]

    assert (
        describe_gguf_file(tmp_path, {"general.file_type": None}, tensors=tensors).quantization
        == "Q8_0"
    )


def test_a_projector_that_the_engine_does_not_read_adds_no_vision(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(write_gguf({"tokenizer.chat_template": CHATML}))
    (tmp_path / "mmproj.gguf").write_bytes(write_gguf({"general.architecture": "clip"}))

    found = describe_folder(tmp_path, {"mmproj.gguf": FileRole.PROJECTOR})

    assert Capability.VISION not in found.capabilities
    assert engine_support.TEXT_ONLY in found.warnings


@pytest.mark.usefixtures("vision_engine")
def test_a_projector_adds_vision_and_is_never_the_model(tmp_path: Path) -> None:
    clip = write_gguf({"general.architecture": "clip"})
    (tmp_path / "m.gguf").write_bytes(write_gguf({"tokenizer.chat_template": CHATML}))
    (tmp_path / "mmproj.gguf").write_bytes(clip)

    assert (
        Capability.VISION
        in describe_folder(tmp_path, {"mmproj.gguf": FileRole.PROJECTOR}).capabilities
    )
    (tmp_path / "m.gguf").unlink()
    with pytest.raises(InvalidModelFile, match="a vision projector, not a model"):
        describe_folder(tmp_path)


def describe_split(
    tmp_path: Path, numbers: list[int], count: int, total: int | None = 2
) -> Description:
    for i, number in enumerate(numbers):
        header = {"split.no": number, "split.count": count, "split.tensors.count": total}
        (tmp_path / f"part-{i}.gguf").write_bytes(write_gguf(header, tensors=[TENSORS[i % 2]]))
    return describe_folder(tmp_path)


def test_a_split_model_is_one_model(tmp_path: Path) -> None:
    assert describe_split(tmp_path, [1, 0], count=2).parameter_count == 20


@pytest.mark.parametrize(
    ("numbers", "count", "total"),
    [([0], 2, 2), ([0, 0], 2, 2), ([0, 2], 2, 2), ([0, 1], 3, 2), ([0, 1], 2, 9)],
    ids=["one missing", "one twice", "a wrong one", "a third missing", "tensors missing"],
)
def test_an_incomplete_split_model_is_refused(
    tmp_path: Path, numbers: list[int], count: int, total: int
) -> None:
    with pytest.raises(InvalidModelFile, match="part"):
        describe_split(tmp_path, numbers, count, total)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"general.architecture": None}, "does not name its architecture"),
        ({"general.architecture": "gemma99"}, "does not know the architecture 'gemma99'"),
        ({"general.type": "adapter"}, "a LoRA adapter"),
        ({"general.type": "imatrix"}, "an importance matrix"),
        ({"llama.block_count": None}, "no block_count"),
        ({"llama.block_count": 100000}, "block_count is 100000"),
        ({"llama.context_length": 0}, "context_length is 0"),
        ({"tokenizer.ggml.tokens": None}, "no vocabulary"),
        ({"tokenizer.ggml.model": None}, "no vocabulary"),
        ({"tokenizer.ggml.token_type": [1]}, "differ in number"),
        ({"tokenizer.ggml.merges": None}, "without merges"),
        ({"tokenizer.ggml.model": "llama"}, "without scores"),
        ({"tokenizer.ggml.eos_token_id": 4}, "eos token does not exist"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value,
)
def test_an_unloadable_file_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidModelFile, match=words):
        describe_gguf_file(tmp_path, changes)


def test_a_vocabulary_alone_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(InvalidModelFile, match="no weights"):
        describe_gguf_file(tmp_path, tensors=())


def test_an_mlx_folder_is_described(tmp_path: Path) -> None:
    found = describe_folder(write_mlx(tmp_path))

    assert msgspec.structs.replace(found, chat_template=None) == Description(
        format="mlx",
        architecture="llama",
        parameter_count=16 * 64 + 64,
        context_length=256,
        embedding_length=64,
        quantization="4bit",
        capabilities=(Capability.COMPLETION, Capability.CHAT),
        template_source="file",
        eos_token="<|im_end|>",
        control_tokens=("<|im_end|>",),
        stop_tokens=("<|im_end|>",),
    )


@pytest.mark.skipif(not MLX_FOLDERS.is_dir(), reason="the trained models are not here")
def test_both_formats_of_the_tiny_model_have_the_same_traits() -> None:
    mlx, gguf = describe_folder(MLX_FOLDERS / "mlx-q8"), describe_tiny()

    same = ("parameter_count", "context_length", "capabilities", "control_tokens", "stop_tokens")
    assert sorted(mlx.user_defined_tokens) == sorted(gguf.user_defined_tokens)
    assert [getattr(mlx, name) for name in same] == [getattr(gguf, name) for name in same]
    assert (mlx.quantization, gguf.quantization) == ("8bit", "F16")


def describe_tiny() -> Description:
    tiny = StoredFile(role=FileRole.MODEL, path="m.gguf", digest="sha256:" + "0" * 64, size_bytes=1)
    return describe_model([tiny], lambda _: TINY_GGUF)


def test_a_file_without_a_vocabulary_may_name_tokens_all_the_same(tmp_path: Path) -> None:
    found = describe_gguf_file(
        tmp_path,
        {
            "tokenizer.ggml.model": "no_vocab",
            "tokenizer.ggml.tokens": None,
            "tokenizer.ggml.token_type": [3, 4],
            "tokenizer.ggml.bos_token_id": struct.pack("<Ii", 5, -1),
        },
    )

    assert (found.bos_token, found.control_tokens, found.user_defined_tokens) == (None, (), ())


def test_an_id_of_thousands_of_digits_is_no_token(tmp_path: Path) -> None:
    decoder = {"9" * 5000: {"content": "x", "special": True}}
    folder = write_mlx(tmp_path)
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))

    assert "x" not in describe_folder(folder).control_tokens
