"""The usage of a generation, from the ends of its answers."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from services.api.generation.answers.events import Finished, FinishReason
from services.api.generation.answers.usage import UsageCounter


def make_end(index: int, *, cached_tokens: int) -> Finished:
    return Finished(
        index=index,
        reason=FinishReason.STOP,
        prompt_tokens=10,
        cached_tokens=cached_tokens,
        completion_tokens=3,
    )


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0)])
def test_a_prompt_that_one_of_its_answers_computes_is_not_cached(order: Sequence[int]) -> None:
    usage = UsageCounter(answers_per_prompt=2, answer_count=4)
    cached_tokens = (0, 9, 4, 9)  # the second answer of a prompt finds what the first computed
    for index in order:
        assert not usage.is_complete
        usage.add(make_end(index, cached_tokens=cached_tokens[index]))

    assert usage.is_complete
    assert (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens) == (20, 4, 12)


def test_what_was_stored_of_the_prompts_is_added_up() -> None:
    usage = UsageCounter(answers_per_prompt=1, answer_count=3)
    for index, tier in enumerate(("ram", None, "disk")):
        stored = {"stored_tokens": 8, "tier": tier, "saved_seconds": 1.5} if tier else {}
        usage.add(msgspec.structs.replace(make_end(index, cached_tokens=9), **stored))

    assert (usage.stored_tokens, usage.tier, usage.saved_seconds) == (16, "disk", 3.0)
