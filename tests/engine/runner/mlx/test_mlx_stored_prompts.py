"""Computed prompts of MLX models in the store: the same answers, in another process too."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest

from services.engine.backends.mlx.cache_states import load_block, load_whole
from services.engine.core import LoadConfig, Sampling, Stopping
from services.engine.messages import commands
from services.engine.runner.mlx import cache_restorer, cache_saver, stored_caches
from services.engine.runner.mlx.mlx_batcher import MlxBatcher
from tests.contracts.storing import (
    ALICE,
    BLOCK,
    build_cache,
    draw_prompt,
    get_store,
    opened,
    wait_until_stored,
)
from tests.engine.backends.mlx.mlx_tests import build_config
from tests.engine.runner.child_runner import (
    ChildRunner,
    config,
    expected,
    prompt_for,
    submit,
    text_for,
)
from tests.models.random_mlx import write_random_mlx

PROMPT = draw_prompt(random.Random(1), 2 * BLOCK + 30)
STORED = 2 * BLOCK
ids = itertools.count(1)


@pytest.fixture
def load(tmp_path: Path) -> LoadConfig:
    return build_config(context_length=2048, cache=build_cache(tmp_path))


def ask(**changes: Any) -> commands.Submit:
    options: dict[str, Any] = {"tokens": tuple(PROMPT), "cache_keys": ALICE, "realm": "alice"}
    return submit(next(ids), **options | changes)


def store_prompt(load: LoadConfig) -> str:
    """Compute the prompt in a batcher that is closed again; returns its answer."""
    with opened(load) as run:
        answer = run.answer(ask())[0]
        wait_until_stored(run.batcher, PROMPT, STORED)
        return answer.text[0]


def list_entries(load: LoadConfig) -> list[Path]:
    """What was written to the disk. Closing the store writes all that waits."""
    assert load.cache is not None
    assert load.cache.disk_folder is not None
    return [path for path in Path(load.cache.disk_folder).rglob("*") if path.is_file()]


def build_conversation() -> str:
    """Known prompts and answers, longer than two blocks, and one more prompt."""
    names = sorted(expected(), key=lambda name: len(prompt_for(name)))
    turns = [prompt_for(name) + text_for(name) + "<|im_end|>\n" for name in names[:8]]
    return "".join(turns) + prompt_for(names[3])


def test_a_restored_prompt_continues_with_the_greedy_text_of_the_gguf(load: LoadConfig) -> None:
    text = build_conversation()
    request = {"cache_keys": ALICE, "realm": "alice"}
    with opened(config(context_length=1024, cache=load.cache)) as run:
        wanted = run.answer(submit(1, text))[0]
    with opened(load) as run:
        first = run.answer(submit(2, text, **request))[0]
    with opened(load) as run:
        restored = run.answer(submit(3, text, **request))[0]
        in_memory = run.answer(submit(4, text, **request))[0]

    assert wanted.text[0]
    assert [each.text for each in (first, restored, in_memory)] == [wanted.text] * 3
    assert first.finished[0].cached_tokens == 0
    assert restored.finished[0].stored_tokens >= STORED
    assert in_memory.finished[0].cached_tokens == wanted.finished[0].prompt_tokens - 1
    assert in_memory.finished[0].stored_tokens == 0


def test_a_new_process_finds_what_another_one_computed(load: LoadConfig) -> None:
    with ChildRunner(load) as runner:
        first = runner.complete(ask())
        runner.send(commands.Stop(30.0))
        runner.wait_until(lambda: runner.has_ended)
    with ChildRunner(load) as runner:
        again = runner.complete(ask())

    finished = again.finished[0]
    assert again.text == first.text
    assert (finished.cached_tokens, finished.stored_tokens, finished.tier) == (512, 512, "disk")
    assert finished.disk_tokens == 512
    assert finished.saved_seconds > 0


def test_what_cannot_be_loaded_is_computed(
    load: LoadConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second block fails: the first one is used."""
    wanted = store_prompt(load)
    calls = itertools.count()

    def fail(library: Any, state: bytes) -> Any:
        return load_block(library, b"nothing" if next(calls) else state)

    monkeypatch.setattr(cache_restorer, "load_block", fail)
    with opened(load) as run:
        answer = run.answer(ask())[0]

    assert answer.text[0] == wanted
    assert answer.finished[0].stored_tokens == answer.finished[0].cached_tokens == BLOCK


def test_blocks_that_do_not_fit_the_model_are_computed(
    load: LoadConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = store_prompt(load)
    monkeypatch.setattr(cache_restorer, "load_block", lambda *args: load_block(*args)[:-1])
    with opened(load) as run:
        answer = run.answer(ask())[0]

    assert answer.text[0] == wanted
    assert answer.finished[0].cached_tokens == answer.finished[0].stored_tokens == 0


def test_what_cannot_be_saved_costs_nothing_else(
    load: LoadConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_saver, "save_block", lambda *_: 1 // 0)
    with opened(load) as run:
        answer = run.answer(ask())[0]

        assert run.batcher.read_state().is_idle

    assert answer.text[0]
    assert list_entries(load) == []


def test_what_is_dropped_before_its_turn_is_not_stored(
    load: LoadConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(load) as run:
        batcher, store = run.batcher, get_store(run.batcher)
        assert isinstance(batcher, MlxBatcher)
        request = ask()
        with monkeypatch.context() as patch:
            patch.setattr(store, "has_room", lambda: False)
            run.add(request)
            while not run.answered[request.id].finished:
                run.step()
        assert batcher.read_state().saving == 1
        batcher._batch._prefixes.clear()
        run.finish()

    assert list_entries(load) == []


def test_several_answers_to_a_prompt_are_one_use_of_it(tmp_path: Path) -> None:
    cache = build_cache(tmp_path, write="second_use")
    sampling = Sampling(temperature=1.0, seed=1)
    with opened(build_config(context_length=1024, kv_mode="split", cache=cache)) as run:
        store = get_store(run.batcher)
        run.answer(ask(n=3, sampling=sampling))
        assert store.wants(store.open_chain(ALICE, PROMPT[:BLOCK]), BLOCK) == [(0, BLOCK)]

        run.answer(ask())
        wait_until_stored(run.batcher, PROMPT, STORED)


@pytest.mark.parametrize("model", ["mlx-window", "mlx-recurrent"])
def test_a_snapshot_that_cannot_be_loaded_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    load = build_config(write_random_mlx(model, tmp_path / model), cache=build_cache(tmp_path))
    tokens = draw_prompt(random.Random(2), 120)
    with opened(load) as run:
        wanted = run.answer(ask(tokens=tuple(tokens)))[0]
        wait_until_stored(run.batcher, tokens, 112)
        in_memory = run.answer(ask(tokens=tuple(tokens)))[0].finished[0]
    monkeypatch.setattr(
        cache_restorer,
        "load_whole",
        lambda library, empty, state: load_whole(library, empty[:-1], state),
    )
    with opened(load) as run:
        answer = run.answer(ask(tokens=tuple(tokens)))[0]

    assert (in_memory.cached_tokens, in_memory.stored_tokens) == (112, 0)
    assert answer.text == wanted.text
    assert answer.finished[0].cached_tokens == answer.finished[0].stored_tokens == 0


def test_a_request_that_is_cancelled_while_it_fetches_leaves_nothing(load: LoadConfig) -> None:
    store_prompt(load)
    with opened(load) as run:
        request = ask()
        run.add(request)
        run.step()
        run.cancel(request.id)

        assert run.batcher.read_state().is_idle
        assert run.answered[request.id].reason.value == "cancelled"


def test_a_step_loads_and_saves_one_block_while_others_generate(
    load: LoadConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block of the tiny model is smaller than what a step may copy, so that is made less."""
    monkeypatch.setattr(stored_caches, "MAX_COPIED_BYTES", 1)
    store_prompt(load)
    loads: list[int] = []

    def note(*args: Any) -> Any:
        loads.append(run.batcher.counters.steps)
        return load_block(*args)

    monkeypatch.setattr(cache_restorer, "load_block", note)
    with opened(load) as run:
        run.add(submit(next(ids), "neighbour", stopping=Stopping(max_tokens=200)))
        run.step()
        run.add(ask())
        run.finish()

        assert len(loads) == 2
        assert loads[0] != loads[1]


def test_what_is_fetched_again_after_a_preemption_counts_once(
    load: LoadConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_caches, "MAX_COPIED_ALONE", 1)
    store_prompt(load)
    with opened(load) as run:
        batcher, request = run.batcher, ask()
        assert isinstance(batcher, MlxBatcher)
        run.add(request)
        branch = batcher._requests[request.id].branches[0]
        while not branch.stored_tokens:
            run.step()
        assert branch.stored_tokens == BLOCK
        batcher._batch.remove(branch)
        batcher._queue.put_back(branch)
        run.finish()

    assert run.answered[request.id].finished[0].stored_tokens == STORED
