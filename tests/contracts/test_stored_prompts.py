"""The contract of batchers with a store: what is fetched continues as if it had been computed."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.engine.core import LoadConfig, Stopping
from services.engine.messages.commands import Submit
from tests.contracts.batching import BatchRun
from tests.contracts.greedy import answer_alone, ask_greedily
from tests.contracts.kinds import build_config
from tests.contracts.storing import (
    BLOCK,
    BOB,
    build_cache,
    count_stored,
    draw_prompt,
    opened,
    saves_whole,
    wait_until_stored,
)
from tests.contracts.test_batcher import assert_same, list_entries
from tests.engine.runner.child_runner import Answered

FETCH_SECONDS = 0.2  # more than enough for a state on this machine's disk


@pytest.fixture(scope="module")
def config(
    kind: str, tmp_path_factory: pytest.TempPathFactory, synthetic_model: Callable[[str], Path]
) -> LoadConfig:
    folder = tmp_path_factory.mktemp("stored")
    cache = build_cache(folder)
    return build_config(kind, folder, synthetic_model, cache=cache, context_length=2048)


@pytest.fixture(scope="module")
def before(config: LoadConfig) -> Iterator[BatchRun]:
    """A batcher that stores what it computes."""
    with opened(config) as run:
        yield run


@pytest.fixture(scope="module")
def after(config: LoadConfig) -> Iterator[BatchRun]:
    """One in the place of another process: it has the store, and nothing in memory."""
    with opened(config) as run:
        yield run


def ask(tokens: list[int], **changes: Any) -> Submit:
    return ask_greedily(tokens=tuple(tokens), **changes)


def alone(run: BatchRun, tokens: list[int]) -> Answered:
    return answer_alone(run, ask(tokens))


def store_prompt(run: BatchRun, kind: str, tokens: list[int]) -> Answered:
    """Compute a prompt, and wait until it is stored."""
    answered = run.answer(ask(tokens))[0]
    wait_until_stored(run.batcher, tokens, count_stored(kind, len(tokens)))
    return answered


def check_cuts(before: BatchRun, after: BatchRun, kind: str, draw: random.Random) -> None:
    """A prompt of a random length is stored; it, and longer ones, continue elsewhere."""
    prompt = draw_prompt(draw, draw.randrange(BLOCK + 1, 3 * BLOCK))
    wanted = alone(after, prompt)
    assert_same(store_prompt(before, kind, prompt), wanted, kind)

    again = after.answer(ask(prompt))[0]

    finished = again.finished[0]
    assert finished.stored_tokens == finished.cached_tokens == count_stored(kind, len(prompt))
    assert finished.tier in ("disk", "ram")
    assert again.started is not None
    assert again.started.stored_tokens == finished.stored_tokens
    assert_same(again, wanted, kind)


def test_a_stored_prefix_continues_as_if_it_had_never_been_interrupted(
    before: BatchRun, after: BatchRun, kind: str
) -> None:
    draw = random.Random(3)
    for _ in range(1 if "mlx" in kind else 4):  # MLX is slow on a processor
        check_cuts(before, after, kind, draw)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_stored_prefix_continues_at_200_random_lengths(
    before: BatchRun, after: BatchRun, kind: str
) -> None:
    draw = random.Random(4)
    for _ in range(200):
        check_cuts(before, after, kind, draw)


def test_the_next_turn_computes_only_its_new_tokens(
    before: BatchRun, after: BatchRun, kind: str
) -> None:
    """Of a dense memory the block in which the answer ends is not stored; of others, all is."""
    draw = random.Random(5)
    prompt = draw_prompt(draw, 500)
    first = before.answer(ask(prompt, stopping=Stopping(max_tokens=16, ignore_eos=True)))[0]
    turn = [*prompt, *(entry.token for entry in list_entries(first)), *draw_prompt(draw, 30)]
    ended = 500 + 15  # the last token of an answer is not computed
    length = ended if saves_whole(kind) else 2 * BLOCK
    wait_until_stored(before.batcher, turn, length)

    second = after.answer(ask(turn))[0]

    assert second.finished[0].stored_tokens == length
    assert_same(second, alone(after, turn), kind)


def test_what_is_stored_of_one_tenant_is_not_there_for_another(
    before: BatchRun, after: BatchRun, kind: str
) -> None:
    prompt = draw_prompt(random.Random(6), 400)
    wanted = store_prompt(before, kind, prompt)

    bob = after.answer(ask(prompt, realm="bob", cache_keys=BOB))[0]
    keyless = after.answer(ask(prompt, realm="keyless", cache_keys=()))[0]
    alice = after.answer(ask(prompt))[0]

    assert [each.finished[0].cached_tokens for each in (bob, keyless)] == [0, 0]
    assert alice.finished[0].stored_tokens == count_stored(kind, 400)
    for each in (bob, keyless, alice):
        assert_same(each, wanted, kind)


def test_a_request_without_cache_neither_finds_nor_stores(
    before: BatchRun, after: BatchRun, kind: str
) -> None:
    prompt, other = (draw_prompt(random.Random(seed), 400) for seed in (7, 8))
    store_prompt(before, kind, prompt)

    hidden = after.answer(ask(prompt, no_cache=True))[0]
    after.answer(ask(other, no_cache=True))
    found = before.answer(ask(other))[0]

    assert hidden.finished[0].cached_tokens == 0
    assert found.finished[0].cached_tokens == 0


def test_requests_with_the_same_stored_prefix_follow_the_one_that_fetches(
    before: BatchRun, after: BatchRun, kind: str
) -> None:
    draw = random.Random(9)
    prompt = draw_prompt(draw, 700)
    store_prompt(before, kind, prompt)
    tails = [draw_prompt(draw, 20) for _ in range(3)]
    wanted = [alone(after, prompt + tail) for tail in tails]
    computed = after.batcher.counters.computed_tokens

    together = after.answer(*(ask(prompt + tail) for tail in tails))

    computed = after.batcher.counters.computed_tokens - computed
    for answer, other in zip(together, wanted, strict=True):
        assert_same(answer, other, kind)
        assert answer.finished[0].cached_tokens >= count_stored(kind, 700)
    assert computed < len(tails) * (720 - count_stored(kind, 700)) + 1


def test_a_prompt_that_begins_like_another_while_a_third_is_loaded_continues_right(
    before: BatchRun, config: LoadConfig, kind: str
) -> None:
    """The third takes cells of the one that was used first, and then some before a window."""
    draw = random.Random(10)
    oldest, like, latest, third = (draw_prompt(draw, length) for length in (300, 800, 600, 500))
    begins_alike = like[:150] + draw_prompt(draw, 100)
    store_prompt(before, kind, third)
    with opened(config) as run:
        for prompt in (oldest, like, latest):
            run.answer(ask(prompt))
        run.add(ask(third))
        run.step()
        time.sleep(FETCH_SECONDS)

        # It looks for its beginning in the step in which the third is loaded.
        answered = run.answer(ask(begins_alike))[0]

        assert_same(answered, alone(run, begins_alike), kind)
