"""Which files of a repository make up the model."""

from __future__ import annotations

import random

import pytest

from services.puller.sources.file_selection import (
    PRIORITY,
    UNQUANTIZED,
    Choice,
    Wanted,
    choose,
    label_of,
    rank,
)
from services.shared.errors import PullFailed
from services.shared.store.manifest import FileRole

MODEL, PROJECTOR = FileRole.MODEL, FileRole.PROJECTOR


def models(choice: Choice) -> list[str]:
    return [path for role, path in choice.files if role is MODEL]


def test_every_step_of_the_order_beats_the_next() -> None:
    order = [*PRIORITY, *UNQUANTIZED]
    files = {label: f"Model-7B-{label.upper()}.gguf" for label in order}

    while order:
        offered = list(files.values())
        random.Random(len(order)).shuffle(offered)
        assert models(choose(offered, Wanted())) == [files.pop(order.pop(0))]


def test_the_order_begins_as_the_users_wrote_it() -> None:
    assert PRIORITY[:8] == (
        "q4_k_m", "q5_k_m", "q4_k_s", "q5_k_s", "q4_0", "q5_0", "q6_k", "q8_0",
    )  # fmt: skip
    assert UNQUANTIZED == ("f16", "bf16", "f32")
    assert rank("q2_k") < rank(None) < rank("f16")


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("Qwen3-0.6B-Q4_K_M.gguf", "q4_k_m"),
        ("qwen3-0.6b-q4_k_m.gguf", "q4_k_m"),
        ("Model-UD-Q4_K_XL.gguf", "q4_k_xl"),
        ("model.Q8_0.gguf", "q8_0"),
        ("model-fp16.gguf", "f16"),
        ("model-BF16-00001-of-00002.gguf", "bf16"),
        ("Q5_K_M/model-00001-of-00002.gguf", "q5_k_m"),
        ("model-IQ3_XXS.gguf", "iq3_xxs"),
        ("gpt-oss-20b-mxfp4.gguf", "mxfp4"),
        ("model-Q4_0_4_4.gguf", "q4_0_4_4"),
        ("tiny.gguf", None),
        ("iq2000-chat.gguf", None),
    ],
)
def test_a_label_is_read_from_the_name(path: str, label: str | None) -> None:
    assert label_of(path) == label


def test_a_projector_is_taken_along_and_never_for_the_model() -> None:
    offered = [
        "mmproj-model-f16.gguf", "mmproj-model-Q8_0.gguf", "model-Q8_0.gguf", "model-f16.gguf",
    ]  # fmt: skip

    assert choose(offered, Wanted()).files == (
        (MODEL, "model-Q8_0.gguf"),
        (PROJECTOR, "mmproj-model-f16.gguf"),
    )


def test_a_projector_alone_is_no_model() -> None:
    with pytest.raises(PullFailed, match="neither a GGUF"):
        choose(["mmproj-f16.gguf", "README.md"], Wanted())


def test_measurements_for_quantisers_are_ignored() -> None:
    offered = ["imatrix.gguf", "Model.imatrix.gguf", "imatrix_unsloth.dat", "Model-IQ1_S.gguf"]

    assert models(choose(offered, Wanted())) == ["Model-IQ1_S.gguf"]


def test_all_parts_of_a_split_model_come_in_order() -> None:
    offered = [f"Q4_K_M/m-Q4_K_M-0000{n}-of-00003.gguf" for n in (3, 1, 2)] + ["m-Q8_0.gguf"]

    assert models(choose(offered, Wanted())) == [
        f"Q4_K_M/m-Q4_K_M-0000{n}-of-00003.gguf" for n in (1, 2, 3)
    ]


def test_a_missing_part_is_named() -> None:
    with pytest.raises(PullFailed, match="part 2 of"):
        choose(["m-Q4_0-00001-of-00003.gguf", "m-Q4_0-00003-of-00003.gguf"], Wanted())


@pytest.mark.parametrize("asked", ["Q8_0", "q8_0"])
def test_a_quantisation_is_asked_for_without_case(asked: str) -> None:
    offered = ["m-Q4_K_M.gguf", "m-Q8_0.gguf"]

    assert models(choose(offered, Wanted(quantization=asked))) == ["m-Q8_0.gguf"]


def test_what_is_not_there_is_answered_with_what_is() -> None:
    with pytest.raises(PullFailed, match="has no Q6_K; it has: q4_k_m, q8_0"):
        choose(["m-Q8_0.gguf", "m-Q4_K_M.gguf"], Wanted(quantization="Q6_K"))


def test_a_file_is_asked_for_by_path_or_name() -> None:
    offered = ["a/m-Q8_0.gguf", "m-Q4_K_M.gguf"]

    for asked in ("a/m-Q8_0.gguf", "M-q8_0.gguf"):
        assert models(choose(offered, Wanted(file=asked))) == ["a/m-Q8_0.gguf"]


def test_two_models_of_one_quantisation_are_settled_and_mentioned() -> None:
    choice = choose(["big-Q4_K_M.gguf", "a-Q4_K_M.gguf"], Wanted())

    assert models(choice) == ["a-Q4_K_M.gguf"]
    assert choice.warnings == ("the repository has 2 such models; took a-Q4_K_M.gguf",)


MLX = [
    "config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "merges.txt",
    "vocab.json", "README.md", ".gitattributes", "modeling_custom.py", "pytorch_model.bin",
    "onnx/model.safetensors",
]  # fmt: skip


def test_an_mlx_repository_brings_weights_tokenizer_and_config_and_no_code() -> None:
    choice = choose(MLX, Wanted())

    assert choice.format == "mlx"
    assert models(choice) == ["model.safetensors"]
    assert {path for _, path in choice.files} == set(MLX) - {
        "README.md", ".gitattributes", "modeling_custom.py", "pytorch_model.bin",
        "onnx/model.safetensors",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Wanted(), "gguf"),
        (Wanted(prefers_mlx=True), "mlx"),
        (Wanted(prefers_mlx=True, format="gguf"), "gguf"),
        (Wanted(format="mlx"), "mlx"),
    ],
    ids=["elsewhere", "on Apple Silicon", "gguf asked there", "mlx asked elsewhere"],
)
def test_where_both_formats_are_the_platform_or_the_wish_decides(
    wanted: Wanted, expected: str
) -> None:
    assert choose([*MLX, "m-Q4_0.gguf"], wanted).format == expected


def test_pickled_weights_are_refused_with_the_reason() -> None:
    with pytest.raises(PullFailed, match="can run code"):
        choose(["config.json", "pytorch_model.bin"], Wanted())


def test_registry_files_of_a_hub_repository_come_along() -> None:
    choice = choose(["m-Q4_0.gguf", "template", "system", "params", "other"], Wanted())

    assert choice.files[1:] == (
        (FileRole.PARAMS, "params"),
        (FileRole.SYSTEM, "system"),
        (FileRole.TEMPLATE, "template"),
    )
