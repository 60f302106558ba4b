"""Texts that a model fills in, by the tokens that its vocabulary has for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from services.engine.core import LoadConfig, TextPiece
from services.engine.runner.batcher import Batcher
from services.engine.runner.build import build_input_processor, open_batcher
from tests.engine.runner.child_runner import ChildRunner, fake_config, submit
from tests.models import synthetic, vocabulary
from tests.models.shapes import PRESETS

LAST = PRESETS["tiny-dense"].vocab_size - len(vocabulary.CONTROL) - 1
BEFORE, AFTER = "def f(a):\n    return <|im_end|>", "\n\nprint(f(2))"


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> LoadConfig:
    path = tmp_path_factory.mktemp("models") / "infill.gguf"
    synthetic.make("tiny-dense", path, has_infill=True, is_fast=True)
    return LoadConfig(model_path=str(path), backend="llamacpp", context_length=256)


@pytest.fixture(scope="module")
def batcher(load: LoadConfig) -> Iterator[Batcher]:
    batcher = open_batcher(load, lambda _: None)
    yield batcher
    batcher.close()


def build_prompt(batcher: Batcher, before: str) -> list[int]:
    first, second = (
        batcher.vocabulary.tokenize((TextPiece(text, literal=True),), add_special=False)
        for text in (before, AFTER)
    )
    return [LAST, *first, LAST - 1, *second, LAST - 2]


@pytest.mark.parametrize("before", [BEFORE, ""], ids=["a prefix", "none"])
def test_the_prompt_is_prefix_suffix_and_the_place_between(batcher: Batcher, before: str) -> None:
    processor = build_input_processor(batcher)
    prepared = processor.prepare(submit(1, infill=(before, AFTER)), arrived_at=0.0)

    assert prepared.request.prompt == build_prompt(batcher, before)
    assert not set(prepared.request.prompt) & set(batcher.vocabulary.end_tokens)


def test_the_answer_is_that_to_the_same_tokens(batcher: Batcher, load: LoadConfig) -> None:
    tokens = tuple(build_prompt(batcher, BEFORE))
    with ChildRunner(load) as runner:
        filled = runner.complete(submit(1, infill=(BEFORE, AFTER), no_cache=True))
        expected = runner.complete(submit(2, tokens=tokens, no_cache=True))

    assert (filled.text, filled.reason) == (expected.text, expected.reason)
    assert filled.finished[0].prompt_tokens == len(tokens)
    assert filled.text[0]


def test_a_model_without_the_tokens_refuses_it_and_names_the_field() -> None:
    with ChildRunner(fake_config()) as runner:
        runner.send(submit(1, infill=("a", "b")))
        answered = runner.wait_for_answer(1)

    assert answered.failed is not None
    assert (answered.error_code, answered.failed.error["param"]) == ("invalid_request", "suffix")
