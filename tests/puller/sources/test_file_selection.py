"""The selection of a model's files in a repository."""

from __future__ import annotations

import random

import pytest

from services.puller.sources.file_selection import (
    QUANTIZATION_ORDER,
    UNQUANTIZED,
    FileSelection,
    SelectionCriteria,
    apply_weight_index,
    find_weight_index,
    list_quantizations,
    parse_quantization,
    rank_quantization,
    select_files,
)
from services.shared.errors import PullFailed
from services.shared.store.manifest import FileRole

MODEL, PROJECTOR = FileRole.MODEL, FileRole.PROJECTOR


def model_paths(selection: FileSelection) -> list[str]:
    return [path for role, path in selection.files if role is MODEL]


def test_each_quantisation_is_preferred_to_the_next() -> None:
    order = [*QUANTIZATION_ORDER, *UNQUANTIZED]
    files = {label: f"Model-7B-{label.upper()}.gguf" for label in order}

    while order:
        offered = list(files.values())
        random.Random(len(order)).shuffle(offered)
        assert model_paths(select_files(offered, SelectionCriteria())) == [files.pop(order.pop(0))]


def test_the_order_starts_with_the_required_quantisations() -> None:
    assert QUANTIZATION_ORDER[:8] == (
        "q4_k_m", "q5_k_m", "q4_k_s", "q5_k_s", "q4_0", "q5_0", "q6_k", "q8_0",
    )  # fmt: skip
    assert UNQUANTIZED == ("f16", "bf16", "f32")
    assert rank_quantization("q2_k") < rank_quantization(None) < rank_quantization("f16")


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
def test_the_quantisation_is_parsed_from_the_name(path: str, label: str | None) -> None:
    assert parse_quantization(path) == label


@pytest.mark.usefixtures("vision_engine")
def test_a_projector_is_selected_with_the_model_and_never_as_the_model() -> None:
    offered = [
        "mmproj-model-f16.gguf", "mmproj-model-Q8_0.gguf", "model-Q8_0.gguf", "model-f16.gguf",
    ]  # fmt: skip

    assert select_files(offered, SelectionCriteria()).files == (
        (MODEL, "model-Q8_0.gguf"),
        (PROJECTOR, "mmproj-model-f16.gguf"),
    )


def test_a_projector_alone_is_no_model() -> None:
    with pytest.raises(PullFailed, match="neither a GGUF"):
        select_files(["mmproj-f16.gguf", "README.md"], SelectionCriteria())


def test_imatrix_files_are_ignored() -> None:
    offered = ["imatrix.gguf", "Model.imatrix.gguf", "imatrix_unsloth.dat", "Model-IQ1_S.gguf"]

    assert model_paths(select_files(offered, SelectionCriteria())) == ["Model-IQ1_S.gguf"]


def test_all_parts_of_a_split_model_are_selected_in_order() -> None:
    offered = [f"Q4_K_M/m-Q4_K_M-0000{n}-of-00003.gguf" for n in (3, 1, 2)] + ["m-Q8_0.gguf"]

    assert model_paths(select_files(offered, SelectionCriteria())) == [
        f"Q4_K_M/m-Q4_K_M-0000{n}-of-00003.gguf" for n in (1, 2, 3)
    ]


def test_a_missing_part_is_named() -> None:
    with pytest.raises(PullFailed, match="part 2 of"):
        select_files(
            ["m-Q4_0-00001-of-00003.gguf", "m-Q4_0-00003-of-00003.gguf"], SelectionCriteria()
        )


@pytest.mark.parametrize("requested", ["Q8_0", "q8_0"])
def test_a_requested_quantisation_is_case_insensitive(requested: str) -> None:
    offered = ["m-Q4_K_M.gguf", "m-Q8_0.gguf"]

    assert model_paths(select_files(offered, SelectionCriteria(quantization=requested))) == [
        "m-Q8_0.gguf"
    ]


def test_an_error_lists_the_available_quantisations() -> None:
    with pytest.raises(PullFailed, match="has no Q6_K; it has: q4_k_m, q8_0"):
        select_files(["m-Q8_0.gguf", "m-Q4_K_M.gguf"], SelectionCriteria(quantization="Q6_K"))


def test_a_file_can_be_requested_by_path_or_name() -> None:
    offered = ["a/m-Q8_0.gguf", "m-Q4_K_M.gguf"]

    for requested in ("a/m-Q8_0.gguf", "M-q8_0.gguf"):
        assert model_paths(select_files(offered, SelectionCriteria(file=requested))) == [
            "a/m-Q8_0.gguf"
        ]


def test_of_two_models_with_one_quantisation_the_first_is_selected_with_a_warning() -> None:
    selection = select_files(["big-Q4_K_M.gguf", "a-Q4_K_M.gguf"], SelectionCriteria())

    assert model_paths(selection) == ["a-Q4_K_M.gguf"]
    assert selection.warnings == (
        "the repository has 2 models of this kind; a-Q4_K_M.gguf was selected",
    )


MLX = [
    "config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "merges.txt",
    "vocab.json", "README.md", ".gitattributes", "modeling_custom.py", "pytorch_model.bin",
    "onnx/model.safetensors", "1_Pooling/config.json", "2_Dense/config.json",
    "2_Dense/model.safetensors",
]  # fmt: skip


@pytest.mark.usefixtures("mlx_engine")
def test_weights_tokenizer_and_config_of_an_mlx_repository_are_selected_but_no_code() -> None:
    selection = select_files(MLX, SelectionCriteria())

    assert selection.format == "mlx"
    assert model_paths(selection) == ["model.safetensors"]
    assert {path for _, path in selection.files} == set(MLX) - {
        "README.md", ".gitattributes", "modeling_custom.py", "pytorch_model.bin",
        "onnx/model.safetensors", "2_Dense/model.safetensors",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("criteria", "expected"),
    [
        (SelectionCriteria(), "gguf"),
        (SelectionCriteria(prefers_mlx=True), "mlx"),
        (SelectionCriteria(prefers_mlx=True, format="gguf"), "gguf"),
        (SelectionCriteria(format="mlx"), "mlx"),
    ],
    ids=["elsewhere", "on Apple Silicon", "gguf requested there", "mlx requested elsewhere"],
)
@pytest.mark.usefixtures("mlx_engine")
def test_the_request_or_the_platform_decides_between_two_formats(
    criteria: SelectionCriteria, expected: str
) -> None:
    selection = select_files([*MLX, "m-Q4_0.gguf"], criteria)
    is_explained = bool(selection.warnings)

    assert (selection.format, is_explained) == (
        expected,
        criteria == SelectionCriteria(prefers_mlx=True),
    )


@pytest.mark.usefixtures("mlx_engine")
def test_weights_in_two_formats_are_selected_once_and_no_code_as_tokenizer() -> None:
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    offered = ["config.json", "consolidated.safetensors", "tokenizer.json", "tokenizer.py", *shards]

    selection = select_files(offered, SelectionCriteria(format="mlx"))

    assert model_paths(selection) == shards
    assert "tokenizer.py" not in {path for _, path in selection.files}


@pytest.mark.parametrize("requested", ["MXFP4_MOE", "mxfp4_moe", "MXFP4"])
def test_mxfp4_is_found_by_the_names_that_repositories_use(requested: str) -> None:
    offered = ["gpt-oss-20b-MXFP4_MOE.gguf", "gpt-oss-20b-Q8_0.gguf"]

    assert model_paths(select_files(offered, SelectionCriteria(quantization=requested))) == [
        "gpt-oss-20b-MXFP4_MOE.gguf"
    ]


def test_every_dynamic_quantisation_is_better_than_one_bit() -> None:
    offered = [f"m-{q}.gguf" for q in ("UD-Q6_K_XL", "UD-Q8_K_XL", "UD-IQ1_S", "BF16")]

    assert model_paths(select_files(offered, SelectionCriteria())) == ["m-UD-Q6_K_XL.gguf"]
    assert list_quantizations(offered) == ("q6_k_xl", "q8_k_xl", "iq1_s", "bf16")


def test_pickled_weights_are_refused_with_the_reason() -> None:
    with pytest.raises(PullFailed, match="can run code"):
        select_files(["config.json", "pytorch_model.bin"], SelectionCriteria())


def test_registry_files_of_a_hub_repository_are_selected() -> None:
    selection = select_files(
        ["m-Q4_0.gguf", "template", "system", "params", "other"], SelectionCriteria()
    )

    assert selection.files[1:] == (
        (FileRole.PARAMS, "params"),
        (FileRole.SYSTEM, "system"),
        (FileRole.TEMPLATE, "template"),
    )


@pytest.mark.usefixtures("mlx_engine")
def test_the_index_decides_which_files_are_weights() -> None:
    paths = [
        "config.json",
        "model.safetensors.index.json",
        *("a.safetensors", "b.safetensors", "adapter.safetensors"),
    ]
    selection = select_files(paths, SelectionCriteria())

    chosen = apply_weight_index(selection, paths, {"x": "b.safetensors", "y": "a.safetensors"})

    assert find_weight_index(selection) == "model.safetensors.index.json"
    assert [path for _, path in chosen.files] == [
        *("a.safetensors", "b.safetensors"),
        *("config.json", "model.safetensors.index.json"),
    ]
    with pytest.raises(PullFailed, match="names 2 files of weights, and gone"):
        apply_weight_index(selection, paths, {"x": "a.safetensors", "y": "gone.safetensors"})
    with pytest.raises(PullFailed, match="not safetensors"):
        apply_weight_index(selection, [*paths, "m.bin"], {"x": "a.safetensors", "y": "m.bin"})


def test_a_message_names_some_of_thousands_of_models() -> None:
    paths = [f"m{n:05}.gguf" for n in range(5000)]

    with pytest.raises(PullFailed, match=r"it has: m00000\.gguf, .*, m00049\.gguf, …$"):
        select_files(paths, SelectionCriteria(quantization="Q4_0"))
