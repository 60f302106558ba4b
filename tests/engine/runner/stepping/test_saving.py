"""Copying computed prompts for the store: late, in small parts, and of what is still there."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from services.engine.core import MemoryPolicy
from tests.contracts.storing import ALICE, BLOCK, draw_prompt
from tests.engine.runner.stepping.storing_batcher import NotingBackend, ask, list_tokens, storing

MIB = 1 << 20
PROMPT = draw_prompt(random.Random(1), 1300)


@pytest.fixture
def large_states(monkeypatch: pytest.MonkeyPatch) -> None:
    """States of 3 MiB, as those of 256 tokens of a small model."""
    monkeypatch.setattr(NotingBackend, "padding", 3 * MIB)


@pytest.fixture
def huge_states(monkeypatch: pytest.MonkeyPatch) -> None:
    """States of 12 MiB, so that one step does not copy those of a prompt."""
    monkeypatch.setattr(NotingBackend, "padding", 12 * MIB)


def test_nothing_is_copied_before_the_first_token(tmp_path: Path) -> None:
    with storing(tmp_path) as run:
        request = ask(PROMPT, count=40)
        run.add(request)
        while not run.answered[request.id].deltas:
            assert run.backend.saved == []
            run.step()
        run.finish()

        assert run.backend.saved == [(n, n + BLOCK) for n in range(0, 1280, BLOCK)]


def test_a_snapshot_of_a_prompt_is_stored_after_the_first_token(tmp_path: Path) -> None:
    """Its copy is taken when the prompt is at that length, which does not come again."""
    with storing(tmp_path, MemoryPolicy.RECURRENT) as run:
        request = ask(PROMPT, count=40)
        run.add(request)
        chain = run.store.open_chain(ALICE, PROMPT)
        while not run.answered[request.id].deltas:
            assert run.store.wants(chain, 1292)
            run.step()
        run.step()
        assert not run.store.wants(chain, 1292)
        run.finish()

        assert run.backend.saved == [(1292, 1292), (0, 1292), (0, 1339)]


def test_a_step_copies_little_while_others_generate(tmp_path: Path, large_states: None) -> None:
    with storing(tmp_path) as run:
        neighbour = ask(draw_prompt(random.Random(2), 30), count=400, keys=())
        run.add(neighbour)
        run.step()
        for _ in range(2):  # saved, and then fetched: what is in memory goes with it
            request = ask(PROMPT)
            run.add(request)
            while not run.answered[request.id].finished:
                before = run.backend.copied
                run.step()
                assert run.backend.copied - before < (4 + 4) * MIB
            while run.batcher.read_state().saving:
                before = run.backend.copied
                run.step()
                assert run.backend.copied - before < (4 + 4) * MIB
        assert not run.answered[neighbour.id].finished
        assert run.backend.copied > 5 * 3 * MIB


def test_fetching_copies_little_in_a_step_while_others_generate(
    tmp_path: Path, large_states: None
) -> None:
    with storing(tmp_path) as run:
        run.answer(ask(PROMPT))
    # The neighbour generates for longer than the store's threads take to read.
    with storing(tmp_path, context_length=16384, speculate=False) as run:
        neighbour = ask(draw_prompt(random.Random(2), 30), count=12000, keys=())
        run.add(neighbour)
        run.step()
        request = ask(PROMPT)
        run.add(request)
        while not run.answered[request.id].finished:
            before = run.backend.copied
            time.sleep(0.001)  # a real backend lets the store's threads run while it computes
            run.step()
            assert run.backend.copied - before < (4 + 4) * MIB
        assert run.answered[request.id].finished[0].stored_tokens == 1280
        assert not run.answered[neighbour.id].finished


def test_an_idle_batcher_has_work_until_all_is_copied(tmp_path: Path, huge_states: None) -> None:
    with storing(tmp_path) as run:
        request = ask(PROMPT, count=1)
        run.add(request)
        while not run.answered[request.id].finished:
            run.step()
        state = run.batcher.read_state()
        assert (state.running, state.queued, state.is_idle) == (0, 0, False)
        assert len(run.backend.saved) == 3

        run.finish()

        assert len(run.backend.saved) == 5


def test_what_is_left_of_a_dropped_sequence_is_not_saved(tmp_path: Path, huge_states: None) -> None:
    """Its cells go to another prompt, after three of its five blocks were copied."""
    with storing(tmp_path, context_length=1400) as run:
        first = ask(PROMPT, count=1)
        run.add(first)
        while not run.answered[first.id].finished:
            run.step()
        second = run.answer(ask(draw_prompt(random.Random(3), 1300), count=4))[0]

        assert second.finished[0].cached_tokens == 0
        assert [end for _, end in run.backend.saved] == [256, 512, 768, *range(256, 1281, 256)]
        run.check_cells()


def test_the_same_prompt_of_several_answers_is_saved_once(tmp_path: Path) -> None:
    with storing(tmp_path) as run:
        run.answer(ask(PROMPT, n=3))

        assert sorted(run.backend.saved) == [(n, n + BLOCK) for n in range(0, 1280, BLOCK)]


def test_a_chat_stores_only_its_new_blocks(tmp_path: Path) -> None:
    with storing(tmp_path) as run:
        run.answer(ask(PROMPT[:600]))
        run.answer(ask(PROMPT))

        assert run.backend.saved == [(n, n + BLOCK) for n in range(0, 1280, BLOCK)]


def test_nothing_is_copied_of_requests_without_keys_or_with_no_cache(tmp_path: Path) -> None:
    with storing(tmp_path) as run:
        run.answer(ask(PROMPT, keys=()), ask(PROMPT, no_cache=True))

        assert run.backend.saved == []


@pytest.mark.parametrize("policy", list(MemoryPolicy), ids=lambda policy: policy.value)
def test_random_histories_with_a_store_give_the_answers_of_each_request_alone(
    tmp_path: Path, policy: MemoryPolicy
) -> None:
    """Little memory: prompts are stored, dropped, fetched, preempted, cancelled; three batchers."""
    draw = random.Random(policy.value)
    roots = [draw_prompt(draw, 300) for _ in range(3)]
    with storing(tmp_path, policy) as reference:
        wanted: dict[tuple[int, ...], str] = {}
        for _ in range(24):
            prompt = (*draw.choice(roots)[: draw.randrange(40, 300)], *draw_prompt(draw, 30))
            wanted[prompt] = list_tokens(reference.answer(ask(prompt, no_cache=True))[0])
    stored = 0
    for _ in range(3):
        with storing(tmp_path, policy, context_length=700, max_sequences=3) as run:
            asked = {}
            for prompt in draw.choices(list(wanted), k=30):
                request = ask(prompt, no_cache=draw.random() < 0.1)
                run.add(request)
                asked[request.id] = prompt
                for _ in range(draw.randrange(8)):
                    run.step()
                if draw.random() < 0.2:
                    run.cancel(draw.choice(list(asked)))
            run.finish()
            run.check_cells()
            for id_, prompt in asked.items():
                finished = run.answered[id_].finished[0]
                stored += finished.stored_tokens
                assert finished.stored_tokens <= finished.cached_tokens
                assert wanted[prompt].startswith(list_tokens(run.answered[id_]))
                if finished.reason.value == "length":
                    assert wanted[prompt] == list_tokens(run.answered[id_])
    assert stored > 500


def test_a_block_that_was_evicted_before_others_is_saved_again(tmp_path: Path) -> None:
    """It is in memory, so only those behind it are fetched; without it they are of no use later."""
    with storing(tmp_path) as run:
        run.answer(ask(PROMPT))
        first, second, *_ = [tmp_path / "disk" / name[:2] / name[2:] for name in run.stop()]
    with storing(tmp_path) as run:
        run.answer(ask(PROMPT[:600], keys=()))
        first.unlink()
        second.unlink()
        assert run.answer(ask(PROMPT))[0].finished[0].stored_tokens == 1280 - 512

    assert first.exists()
    assert second.exists()
