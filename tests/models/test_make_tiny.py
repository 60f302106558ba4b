"""The parts of make_tiny that run without torch."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tests.models.make_tiny.__main__ import export
from tests.models.make_tiny.batches import BUDGET, Batches
from tests.models.make_tiny.cases import cases
from tests.models.make_tiny.samples import draw_sample
from tests.models.make_tiny.shape import END_OF_TURN, PADDING, VOCABULARY
from tests.models.make_tiny.tokenizer import train_tokenizer

TINY = Path(__file__).parent / "tiny"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer()


@pytest.fixture
def batches(tokenizer: Tokenizer) -> Batches:
    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    return Batches(encode, cases(), random.Random(3), (END_OF_TURN, PADDING))


def test_a_trained_tokenizer_has_the_size_of_the_model_and_is_lossless(
    tokenizer: Tokenizer,
) -> None:
    text = "Tell me, naïvely: 漢字 😀\n\n  <think>ok</think>"

    assert tokenizer.get_vocab_size() == VOCABULARY
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_names_and_cities_are_single_tokens(tokenizer: Tokenizer) -> None:
    words = [" Paris", " Tokyo", " Lima", " Alice", " Walter", " sunny"]

    assert [len(tokenizer.encode(word).ids) for word in words] == [1] * len(words)


def test_samples_are_prompts_with_answers_and_reproducible() -> None:
    first = [draw_sample(random.Random(seed)) for seed in range(300)]
    second = [draw_sample(random.Random(seed)) for seed in range(300)]

    assert first == second
    assert all(answer for _, answer in first)
    assert any("<tool_response>" in prompt for prompt, _ in first)
    assert all(prompt.endswith(("assistant\n", "\n\n", "<think>\n", "")) for prompt, _ in first)


def test_case_names_are_unique() -> None:
    names = [case.name for case in cases()]

    assert len(names) == len(set(names)) == 74


def test_a_batch_stays_within_its_budget_and_weights_every_token(batches: Batches) -> None:
    for _ in range(30):
        rows = batches.draw(copying_share=0.3)
        width = max(len(row.tokens) for row in rows)

        assert len(rows) == 1 or len(rows) * width <= BUDGET
        assert all(len(row.tokens) == len(row.weights) for row in rows)
        assert all(max(row.weights) > 0.03 for row in rows)


def test_repetitions_have_loss_only_on_their_repeated_part(batches: Batches) -> None:
    for row in batches.draw(copying_share=1.0):
        has_loss = [weight > 0 for weight in row.weights]
        part = has_loss.index(True)

        assert has_loss == [False] * part + [True] * (len(has_loss) - part)
        assert row.tokens[part:] == row.tokens[:part] * ((len(row.tokens) - part) // part)


def test_an_export_needs_only_weights_and_tokenizer_and_follows_the_umask(tmp_path: Path) -> None:
    source = tmp_path / "mlx-f16"
    source.mkdir()
    for name in ("model.safetensors", "tokenizer.json"):
        shutil.copyfile(TINY / "mlx-f16" / name, source / name)
    (source / "chat_template.jinja").write_text("of yesterday")

    export(tmp_path)

    made = {path.relative_to(tmp_path): path for path in tmp_path.rglob("*") if path.is_file()}
    kept = {path.relative_to(TINY) for kind in ("*.gguf", "mlx-f16/*") for path in TINY.glob(kind)}
    assert [one for one in kept if made[one].read_bytes() != (TINY / one).read_bytes()] == []
    # All files have the mode that the umask gives, not one that a library sets.
    assert len({path.stat().st_mode for path in made.values()}) == 1
