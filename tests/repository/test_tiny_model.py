"""The committed tiny model matches its exporters, and its answers match expected.json."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from tests.models.llama import ReferenceModel
from tests.models.make_tiny.cases import cases
from tests.models.make_tiny.export_gguf import write_gguf
from tests.models.make_tiny.export_mlx import GROUP, quantise_affine, write_mlx
from tests.models.make_tiny.record import MAX_TOKENS

TINY = Path(__file__).parent.parent / "models" / "tiny"
MLX = TINY / "mlx-f16"
EXPECTED: list[dict[str, Any]] = json.loads((TINY / "expected.json").read_text(encoding="utf-8"))
# One short answer of each kind; `make soak` checks all answers.
SAMPLE = [
    "fact-0", "fact-19", "fact-20", "fact-24", "fact-25", "fact-system", "count-20", "think-0",
    "think-off-0", "think-open-0", "tool-Lima", "tool-time-Lima", "tool-reply-Tokyo", "notool-Paris",
    "name-Alice", "repeat", "raw-1",
]  # fmt: skip


@pytest.fixture(scope="module")
def weights() -> dict[str, NDArray[np.float16]]:
    return load_file(MLX / "model.safetensors")


@pytest.fixture(scope="module")
def reference() -> Iterator[ReferenceModel]:
    with ReferenceModel(TINY / "tiny-f16.gguf") as model:
        yield model


@pytest.mark.parametrize(
    ("name", "quantised"), [("tiny-f16.gguf", False), ("tiny-q8_0.gguf", True)], ids=["f16", "q8_0"]
)
def test_the_committed_gguf_is_the_export_of_the_committed_mlx_folder(
    weights: dict[str, NDArray[np.float16]], tmp_path: Path, name: str, quantised: bool
) -> None:
    write_gguf(weights, MLX / "tokenizer.json", tmp_path / name, quantised=quantised)

    assert (tmp_path / name).read_bytes() == (TINY / name).read_bytes()


def test_the_committed_mlx_folder_is_what_its_exporter_writes(
    weights: dict[str, NDArray[np.float16]], tmp_path: Path
) -> None:
    tokenizer = (MLX / "tokenizer.json").read_text(encoding="utf-8")
    write_mlx(weights, tokenizer, tmp_path, quantised=False)

    assert _read_files(tmp_path) == _read_files(MLX)


def test_eight_bit_mlx_weights_dequantise_within_half_a_step(
    weights: dict[str, NDArray[np.float16]],
) -> None:
    weight = weights["model.layers.0.mlp.down_proj.weight"]
    packed, scale, bias = quantise_affine(weight)

    steps = packed.view(np.uint8).reshape(weight.shape[0], -1, GROUP).astype(np.float32)
    restored = steps * scale[..., None].astype(np.float32) + bias[..., None].astype(np.float32)
    error = np.abs(restored.reshape(weight.shape) - weight.astype(np.float32))
    # Half a step, plus the error of scale and bias in f16 over 255 steps.
    allowed = np.repeat(scale.astype(np.float32), GROUP, axis=1) * (0.5 + 255 * 2**-10)
    assert np.all(error <= allowed)


def test_the_model_is_smaller_than_8_mb() -> None:
    assert sum(path.stat().st_size for path in TINY.rglob("*") if path.is_file()) < 8_000_000


def test_expected_json_contains_every_case_with_its_current_rendering() -> None:
    rendered = [case.as_json() | {"rendered": case.rendered()} for case in cases()]
    keys = ("name", "messages", "tools", "kwargs", "prompt", "rendered")

    assert [{key: one[key] for key in keys if key in one} for one in EXPECTED] == rendered


def test_expected_json_marks_the_answers_that_differ_from_the_taught_ones() -> None:
    taught = {case.name: case.taught for case in cases()}
    missed = {one["name"] for one in EXPECTED if one["text"] != taught[one["name"]]}

    assert missed == {one["name"] for one in EXPECTED if "taught" in one}
    assert len(missed) <= 10


@pytest.mark.parametrize("name", SAMPLE)
def test_the_model_gives_the_expected_answer(reference: ReferenceModel, name: str) -> None:
    expected = next(one for one in EXPECTED if one["name"] == name)

    answer = reference.answer_greedily(expected["rendered"], max_tokens=MAX_TOKENS)

    assert answer == (expected["text"], expected["finish"])


@pytest.mark.slow
def test_the_model_gives_all_expected_answers(reference: ReferenceModel) -> None:
    answers = [
        reference.answer_greedily(one["rendered"], max_tokens=MAX_TOKENS) for one in EXPECTED
    ]

    assert answers == [(one["text"], one["finish"]) for one in EXPECTED]


def test_the_quantised_model_answers_a_fact_correctly() -> None:
    with ReferenceModel(TINY / "tiny-q8_0.gguf", context_tokens=512) as model:
        assert model.answer_greedily(EXPECTED[0]["rendered"]) == ("Paris.", "stop")


def test_both_formats_tokenise_text_alike(reference: ReferenceModel) -> None:
    tokenizer = Tokenizer.from_file(str(MLX / "tokenizer.json"))
    texts = [one["rendered"] + one["text"] for one in EXPECTED]

    assert [reference.tokenise(text) for text in texts] == [
        tokenizer.encode(text, add_special_tokens=False).ids for text in texts
    ]


def test_control_tokens_have_no_text_and_thought_and_tool_tags_have(
    reference: ReferenceModel,
) -> None:
    def detokenise(text: str) -> bytes:
        return b"".join(map(reference.token_bytes, reference.tokenise(text)))

    assert detokenise("<|im_start|>user<|im_end|><|endoftext|>") == b"user"
    assert (
        detokenise("<think></think><tool_call></tool_call>")
        == b"<think></think><tool_call></tool_call>"
    )


def _read_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
