from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from tests.models import shapes, synthetic, vocabulary
from tests.models.llama import ReferenceModel, library

TINY = [name for name in shapes.PRESETS if name.startswith("tiny-")]
Make = Callable[[str], Path]


@pytest.mark.parametrize("preset", TINY)
def test_a_tiny_model_is_small_and_its_answer_depends_on_the_first_word(
    synthetic_model: Make, preset: str
) -> None:
    path = synthetic_model(preset)
    rest = "quick brown foxes jump over lazy dogs " * 2

    with ReferenceModel(path, context_tokens=512) as model:
        one = model.answer_greedily("The " + rest, max_tokens=24)
        other = model.answer_greedily("My " + rest, max_tokens=24)
        again = model.answer_greedily("The " + rest, max_tokens=24)

    assert path.stat().st_size < 2_000_000
    assert one == again
    assert one != other


@pytest.mark.parametrize(
    ("preset", "recurrent", "hybrid", "window_tokens"),
    [
        ("tiny-dense", False, False, 0),
        ("tiny-window", False, False, 128),
        ("tiny-recurrent", True, False, 0),
        ("tiny-hybrid", False, True, 0),
    ],
)
def test_each_tiny_model_has_the_kind_of_memory_it_is_named_after(
    synthetic_model: Make, preset: str, recurrent: bool, hybrid: bool, window_tokens: int
) -> None:
    llama = library()
    params = llama.llama_model_default_params()
    model = llama.llama_model_load_from_file(str(synthetic_model(preset)).encode(), params)
    kind = (
        llama.llama_model_is_recurrent(model),
        llama.llama_model_is_hybrid(model),
        llama.llama_model_n_swa(model),
    )
    llama.llama_model_free(model)

    assert kind == (recurrent, hybrid, window_tokens)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    first = synthetic.make("tiny-dense", tmp_path / "a.gguf").read_bytes()
    second = synthetic.make("tiny-dense", tmp_path / "b.gguf").read_bytes()
    third = synthetic.make("tiny-dense", tmp_path / "c.gguf", seed=1).read_bytes()

    assert first == second
    assert first != third
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gguf", "b.gguf", "c.gguf"]


def test_a_quantised_model_is_smaller_and_still_answers(tmp_path: Path) -> None:
    large = synthetic.make("tiny-dense", tmp_path / "f16.gguf")
    small = synthetic.make("tiny-dense", tmp_path / "q8.gguf", quant="Q8_0")

    kinds = {tensor.tensor_type for tensor in gguf.GGUFReader(small).tensors}
    with ReferenceModel(small, context_tokens=256) as model:
        text, finish = model.answer_greedily("Hello", max_tokens=8)
    assert small.stat().st_size < 0.7 * large.stat().st_size
    assert kinds == {gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.F32}
    assert text
    assert finish in ("stop", "length")


def test_repeated_weights_make_a_model_that_answers(tmp_path: Path) -> None:
    made = synthetic.make("tiny-dense", tmp_path / "fast.gguf", is_fast=True)

    with ReferenceModel(made, context_tokens=256) as model:
        text, _ = model.answer_greedily("Hello", max_tokens=8)

    assert text


def test_the_vocabulary_of_another_file_replaces_the_generated_one(tmp_path: Path) -> None:
    tiny = Path(__file__).parent / "tiny" / "tiny-f16.gguf"
    made = synthetic.make("tiny-window", tmp_path / "out.gguf", vocab=tiny)

    assert vocabulary.read(made) == vocabulary.read(tiny)


def test_a_generated_vocabulary_detokenises_any_text_unchanged(synthetic_model: Make) -> None:
    draw = random.Random(5)
    texts = ["naïve façade, 漢字 and 😀\n\n\ttabs", "x" * 500, " \r\n  leading"] + [
        "".join(
            chr(draw.choice([*range(32, 127), *range(0x400, 0x460), 0x1F600])) for _ in range(80)
        )
        for _ in range(20)
    ]
    with ReferenceModel(synthetic_model("tiny-dense"), context_tokens=256) as model:
        back = [b"".join(map(model.token_bytes, model.tokenise(text))).decode() for text in texts]

    assert back == texts


def test_lower_case_words_have_fewer_tokens_than_letters(synthetic_model: Make) -> None:
    text = "the appliance answers every question it was asked before noon"
    with ReferenceModel(synthetic_model("tiny-dense"), context_tokens=256) as model:
        assert len(model.tokenise(text)) < 0.6 * len(text)


@pytest.mark.parametrize("size", [260, 1024, 151936])
def test_a_generated_vocabulary_has_exactly_the_requested_size(size: int) -> None:
    words = {entry.key: entry.value for entry in vocabulary.generate(size)}
    tokens = words["tokenizer.ggml.tokens"]

    assert len(tokens) == len(set(tokens)) == len(words["tokenizer.ggml.token_type"]) == size
    assert tokens[words["tokenizer.ggml.eos_token_id"]] == "<|im_end|>"


@pytest.mark.parametrize("size", [0, 259, 2_000_000])
def test_an_impossible_vocabulary_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"has {size} tokens"):
        vocabulary.generate(size)


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [
        ("qwen2.5-0.5b", 494_032_768),  # according to the model card of Qwen2.5-0.5B
        (
            "qwen2.5-7b",
            7_615_616_512 - 152_064 * 3584,
        ),  # the real model does not tie its embeddings
        ("llama3.2-1b", 1_235_814_400),
        ("llama3.1-8b", 8_030_261_248 - 128_256 * 4096),  # nor does this one
    ],
)
def test_a_real_preset_has_as_many_parameters_as_the_model_it_is_named_after(
    preset: str, parameters: int
) -> None:
    counted = sum(
        int(np.prod(tensor.shape))
        for tensor in shapes.list_tensors(shapes.PRESETS[preset])
        if tensor.name != "rope_freqs.weight"
    )

    assert counted == parameters


def test_llama3_keeps_fast_frequencies_and_divides_slow_ones_by_32() -> None:
    factors = shapes.llama3_frequency_factors(64, 5e5)

    assert factors[0] == 1.0
    assert factors[-1] == 32.0
    assert np.all(np.diff(factors) >= 0)
