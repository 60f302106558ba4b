"""A model whose positions depend on the length of its context, as those of Phi 3 do."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from services.engine.core import LoadConfig
from tests.contracts.storing import BLOCK, build_cache, draw_prompt, opened, wait_until_stored
from tests.contracts.test_stored_prompts import ask


def test_a_load_with_other_positions_does_not_continue_a_stored_prompt(
    tmp_path: Path, synthetic_model: Callable[[str], Path]
) -> None:
    def build_load(context_length: int) -> LoadConfig:
        return LoadConfig(
            model_path=str(synthetic_model("tiny-longrope")),
            backend="llamacpp",
            context_length=context_length,
            threads=1,
            cache=build_cache(tmp_path),
        )

    prompt = draw_prompt(random.Random(1), BLOCK + 100)
    with opened(build_load(512)) as run:
        first = run.answer(ask(prompt))[0]
        wait_until_stored(run.batcher, prompt, BLOCK)
    with opened(build_load(256 + 128)) as run:
        shorter = run.answer(ask(prompt))[0]
    with opened(build_load(1024)) as run:
        longer = run.answer(ask(prompt))[0]

    assert shorter.finished[0].stored_tokens == BLOCK
    assert shorter.text == first.text
    assert longer.finished[0].stored_tokens == 0
    assert longer.text != first.text
