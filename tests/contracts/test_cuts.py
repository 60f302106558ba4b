"""The contract of batchers about cuts: where a message ends, another chat continues."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.engine.core import LoadConfig, MemoryPolicy, TextPiece
from services.engine.messages.commands import Submit
from services.engine.runner.build import open_batcher
from tests.contracts.batching import BatchRun
from tests.contracts.greedy import answer_alone, ask_greedily
from tests.contracts.kinds import build_config, get_policy
from tests.contracts.storing import (
    BLOCK,
    BOB,
    build_cache,
    opened,
    saves_whole,
    wait_until_stored,
)
from tests.contracts.test_batcher import assert_same
from tests.engine.runner.child_runner import Answered


@pytest.fixture(scope="module")
def config(
    kind: str, tmp_path_factory: pytest.TempPathFactory, synthetic_model: Callable[[str], Path]
) -> LoadConfig:
    folder = tmp_path_factory.mktemp("cuts")
    return build_config(kind, folder, synthetic_model, context_length=4096)


@pytest.fixture(scope="module")
def storing(config: LoadConfig, tmp_path_factory: pytest.TempPathFactory) -> LoadConfig:
    cache = build_cache(tmp_path_factory.mktemp("stored"))
    return msgspec.structs.replace(config, cache=cache)


@pytest.fixture(scope="module")
def live(config: LoadConfig) -> Iterator[BatchRun]:
    """A batcher without a store."""
    batcher = open_batcher(config, lambda _: None)
    yield BatchRun(batcher)
    batcher.close()


def draw_text(draw: random.Random, length: int) -> str:
    return "".join(draw.choices("abcdefghijklmnopqrstuvwxyz ", k=length))


def ask(system: str, question: str, **changes: Any) -> Submit:
    """A request with a cut between the two texts."""
    return ask_greedily(system + question, **{"cuts": (len(system),)} | changes)


def alone(run: BatchRun, system: str, question: str) -> Answered:
    return answer_alone(run, ask(system, question))


def tokenize(run: BatchRun, text: str) -> list[int]:
    return run.batcher.vocabulary.tokenize((TextPiece(text),), add_special=False)


def test_a_batcher_tells_whether_it_uses_cuts(
    live: BatchRun, storing: LoadConfig, kind: str
) -> None:
    """In memory, split sequences share nothing but what they hold; what is stored are snapshots."""
    answered = live.answer(ask("a system prompt", "a question"))[0]
    assert answered.started is not None
    is_split = "split" in kind
    assert answered.started.uses_cuts == (
        get_policy(kind) is not MemoryPolicy.DENSE and not is_split
    )
    with opened(storing) as run:
        assert run.batcher.uses_cuts == saves_whole(kind)


def test_a_chat_continues_where_the_system_prompt_of_another_one_ends(
    live: BatchRun, kind: str
) -> None:
    draw = random.Random(1)
    system, one, other = (draw_text(draw, length) for length in (900, 300, 200))
    length = len(tokenize(live, system))
    wanted = alone(live, system, other)
    live.answer(ask(system, one))

    second = live.answer(ask(system, other))[0]
    bob = live.answer(ask(system, other, realm="bob"))[0]

    assert bob.finished[0].cached_tokens == 0
    assert length - 4 <= second.finished[0].cached_tokens <= length + 1
    for each in (bob, second):
        assert_same(each, wanted, kind)


def test_two_chats_at_once_compute_their_system_prompt_once(live: BatchRun, kind: str) -> None:
    draw = random.Random(2)
    system, one, other = (draw_text(draw, length) for length in (900, 300, 200))
    wanted = [alone(live, system, question) for question in (one, other)]
    computed = live.batcher.counters.computed_tokens

    together = live.answer(ask(system, one), ask(system, other))

    computed = live.batcher.counters.computed_tokens - computed
    total = sum(answered.finished[0].prompt_tokens for answered in together)
    assert computed <= total - len(tokenize(live, system)) + 4
    for each, alike in zip(together, wanted, strict=True):
        assert_same(each, alike, kind)


def test_a_chat_that_parts_early_from_a_system_prompt_just_computed_continues_right(
    live: BatchRun, kind: str
) -> None:
    """A window memory may have lost what the two share; that is known at once."""
    draw = random.Random(5)
    system, one, other = (draw_text(draw, length) for length in (700, 200, 1200))
    begin, question = system[:100], draw_text(draw, 30)
    wanted = alone(live, begin, question)
    computed = live.batcher.counters.computed_tokens + len(tokenize(live, system)) - 1
    live.add(ask(system, one), ask("", other, cuts=()))
    while live.batcher.counters.computed_tokens < computed:
        live.step()

    answered = live.answer(ask(begin, question, cuts=()))[0]

    assert_same(answered, wanted, kind)


def test_a_stored_system_prompt_is_found_by_another_chat_in_another_process(
    storing: LoadConfig, kind: str
) -> None:
    draw = random.Random(3)
    system, one, other = (draw_text(draw, length) for length in (1200, 300, 200))
    with opened(storing) as before:
        length = len(tokenize(before, system))
        cut = length - 4 if saves_whole(kind) else length // BLOCK * BLOCK
        before.answer(ask(system, one))
        wait_until_stored(before.batcher, tokenize(before, system + other), cut)
    with opened(storing) as after:
        bob = after.answer(ask(system, other, realm="bob", cache_keys=BOB))[0]
        second = after.answer(ask(system, other))[0]
        third = after.answer(ask(system, one + other))[0]
        wanted = alone(after, system, other)

    assert bob.finished[0].cached_tokens == 0
    assert cut <= second.finished[0].stored_tokens <= length
    assert third.finished[0].cached_tokens >= cut
    for each in (bob, second):
        assert_same(each, wanted, kind)


def test_two_prompts_that_reach_their_cuts_together_are_both_stored(
    storing: LoadConfig, kind: str
) -> None:
    """Of one step, only one state was kept."""
    draw = random.Random(4)
    systems = [draw_text(draw, 1100) for _ in range(2)]
    with opened(storing) as run:
        run.answer(*(ask(system, draw_text(draw, 100)) for system in systems))
        for system in systems:
            length = len(tokenize(run, system))
            cut = length - 4 if saves_whole(kind) else length // BLOCK * BLOCK
            wait_until_stored(run.batcher, tokenize(run, system + " another question"), cut)
