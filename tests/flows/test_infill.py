"""A text that a model fills in, through the whole stack, with the official client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest

from tests.flows.stack import RunningStack
from tests.models import synthetic, vocabulary
from tests.models.shapes import PRESETS

PRESET = "tiny-dense"
# Its last tokens before the control tokens: prefix, suffix, middle.
PREFIX = PRESETS[PRESET].vocab_size - len(vocabulary.CONTROL) - 1
SUFFIX, MIDDLE = PREFIX - 1, PREFIX - 2
BEFORE, AFTER = "def f(a):\n    return <|im_end|>", "\n\nprint(f(2))"


@pytest.fixture(scope="module")
def editor(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of an imported model that has the tokens to fill in a text."""
    path: Path = tmp_path_factory.mktemp("models") / "editor.gguf"
    synthetic.make(PRESET, path, has_infill=True, is_fast=True)
    imported = stack.cli("import", str(path), "--name", "editor")
    assert imported.returncode == 0, imported.stderr
    return "editor"


def tokenize(stack: RunningStack, model: str, text: str) -> list[int]:
    """The tokens of a text in which control tokens are plain text."""
    body = {"model": model, "content": text, "parse_special": False}
    with stack.http() as http:
        tokens: list[int] = http.post("/tokenize", json=body).json()["tokens"]
    return tokens


def test_the_answer_is_that_to_prefix_suffix_and_the_place_between(
    stack: RunningStack, editor: str
) -> None:
    before, after = (tokenize(stack, editor, text) for text in (BEFORE, AFTER))
    body: dict[str, Any] = {"model": editor, "temperature": 0, "max_tokens": 12}
    with stack.openai() as client:
        filled = client.completions.create(**body, prompt=BEFORE, suffix=AFTER)
        expected = client.completions.create(
            **body, prompt=[PREFIX, *before, SUFFIX, *after, MIDDLE]
        )
        chunks = client.completions.create(**body, prompt=BEFORE, suffix=AFTER, stream=True)
        streamed = "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)
        several = client.completions.create(**body, prompt=[BEFORE, BEFORE], suffix=AFTER)

    (choice,) = filled.choices
    assert choice.text
    assert {choice.text, streamed, *(each.text for each in several.choices)} == {
        expected.choices[0].text
    }
    assert filled.usage is not None
    assert expected.usage is not None
    assert filled.usage.prompt_tokens == expected.usage.prompt_tokens == len(before + after) + 3


def test_another_suffix_is_another_answer(stack: RunningStack, editor: str) -> None:
    """The model sees what comes after the place."""
    body: dict[str, Any] = {"model": editor, "temperature": 0, "max_tokens": 1, "logprobs": 3}
    with stack.openai() as client:
        first, second = (
            client.completions.create(**body, prompt=BEFORE, suffix=suffix).choices[0].logprobs
            for suffix in (AFTER, "\n\nraise")
        )

    assert first is not None
    assert second is not None
    assert first.top_logprobs != second.top_logprobs


def test_a_model_without_the_tokens_refuses_the_suffix(stack: RunningStack) -> None:
    with stack.openai() as client, pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="tiny", prompt=BEFORE, suffix=AFTER)

    assert caught.value.param == "suffix"
