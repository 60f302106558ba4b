"""What the MLX batcher does beyond the contract suite: equal answers, fairness, memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from services.engine.backends.mlx.library import load_library
from services.engine.core import FinishReason, Sampling, Stopping
from services.engine.messages.commands import Submit
from services.engine.messages.reports import LoadFailed
from services.engine.runner.build import open_batcher
from services.engine.runner.mlx.mlx_batcher import MlxBatcher
from services.shared.errors import EngineBusy
from tests.conftest import TINY_MLX
from tests.contracts.batching import BatchRun
from tests.engine.backends.mlx.mlx_tests import build_config
from tests.engine.runner.child_runner import (
    ChildRunner,
    expected,
    prompt_for,
    submit,
    text_for,
)
from tests.engine.runner.mlx.mlx_requests import LONG, build
from tests.models.make_tiny.export_mlx import write_mlx


@pytest.mark.parametrize(
    "max_characters",
    [pytest.param(30, id="short"), pytest.param(10_000, id="all", marks=pytest.mark.slow)],
)
def test_known_answers_are_those_of_the_gguf_alone_and_in_a_batch(
    make_run: Callable[..., BatchRun], max_characters: int
) -> None:
    """The answers in expected.json were recorded with llama.cpp on the GGUF."""
    run = make_run(context_length=4096, max_sequences=8, kv_mode="split", max_queued=128)
    names = [name for name in sorted(expected()) if len(text_for(name)) <= max_characters]
    assert len(names) >= 20
    stopping = Stopping(max_tokens=600)

    def build_all(first: int, **changes: Any) -> list[Submit]:
        return [
            submit(first + i, prompt_for(name), stopping=stopping, **changes)
            for i, name in enumerate(names)
        ]

    together = run.answer(*build_all(1))
    again = run.answer(*build_all(2001))

    wanted = [text_for(name) for name in names]
    for answers in (together, again):
        assert [answer.text.get(0, "") for answer in answers] == wanted
    assert all(answer.finished[0].cached_tokens > 0 for answer in again)
    alone = run.answer_one_by_one(build_all(3001, no_cache=True))
    assert [answer.text.get(0, "") for answer in alone] == wanted


def test_a_greedy_answer_is_the_same_with_our_sampling(run: BatchRun) -> None:
    fast, ours = run.answer(
        build(1, LONG[:400], 40, stopping=Stopping(max_tokens=40)),
        build(2, LONG[:400], 40, stopping=Stopping(max_tokens=40), top_logprobs=1),
    )

    assert fast.text == ours.text
    assert not fast.logprobs
    assert len(ours.logprobs) == ours.finished[0].completion_tokens


def test_a_prompt_that_is_preempted_while_it_is_scored_is_scored_once(
    make_run: Callable[..., BatchRun],
) -> None:
    run = make_run(context_length=768)
    options: dict[str, Any] = {"prompt_logprobs": True, "top_logprobs": 1}
    run.add(build(2, LONG[:700], 2, **options), build(3, LONG[:700], 2, **options))
    batcher = run.batcher
    assert isinstance(batcher, MlxBatcher)
    run.step()
    scored = batcher._requests[2].branches[0]
    batcher._batch.remove(scored)
    batcher._queue.put_back(scored)
    run.finish()

    for id_ in (2, 3):
        finished = run.answered[id_].finished[0]
        assert len(finished.prompt_logprobs) == finished.prompt_tokens - 1


def test_principals_take_turns(make_run: Callable[..., BatchRun]) -> None:
    run = make_run(max_sequences=1, max_queued=16)
    run.add(*(build(i, f"a{i}", 2, principal="alice") for i in range(1, 9)))
    run.add(build(9, "b", 2, principal="bob"))
    order: list[int] = []
    while not run.batcher.read_state().is_idle:
        run.step()
        order += [i for i, a in run.answered.items() if a.started is not None and i not in order]

    # A turn is 1024 tokens, of which an answer is taken to need 256.
    assert order.index(9) == 3
    assert run.answered[8].positions


def test_more_requests_than_may_wait_are_refused(make_run: Callable[..., BatchRun]) -> None:
    run = make_run(max_queued=2)
    run.add(build(1, "a"), build(2, "b"))
    with pytest.raises(EngineBusy):
        run.add(build(3, "c"))
    run.batcher.cancel(1)
    run.batcher.cancel(2)

    assert run.batcher.read_state().is_idle


def test_a_queue_that_one_principal_fills_has_room_for_another(
    make_run: Callable[..., BatchRun],
) -> None:
    run = make_run(max_sequences=1, max_queued=4)
    run.add(*(build(id_, "a", principal="many") for id_ in range(1, 3)))
    run.add(build(3, "b", n=2, principal="many"))  # its second answer waits for the first

    run.add(build(4, "c", principal="few"), build(5, "d", principal="few"))

    for id_, principal in ((6, "many"), (7, "few")):
        with pytest.raises(EngineBusy):
            run.add(build(id_, "e", principal=principal))


def test_several_answers_read_their_prompt_once(run: BatchRun) -> None:
    sampling = Sampling(temperature=1.0, seed=3)
    answer = run.answer(build(1, LONG[:400], n=4, sampling=sampling))[0]

    counters = run.batcher.counters
    assert len(answer.finished) == 4
    # Each answer computes the last token of the prompt for itself.
    assert counters.computed_tokens == answer.finished[0].prompt_tokens + 3
    cached = [answer.finished[i].cached_tokens for i in range(4)]
    assert cached == [0, *[answer.finished[0].prompt_tokens - 1] * 3]


def test_several_answers_that_may_share_nothing_all_end(run: BatchRun) -> None:
    answer = run.answer(build(1, "alone", n=3, no_cache=True))[0]

    assert set(answer.finished) == {0, 1, 2}
    assert run.batcher.read_state().cells_used == 0


def test_a_conversation_continues_after_its_last_answer(run: BatchRun) -> None:
    first = run.answer(build(1, LONG[:300]))[0]
    second = run.answer(build(2, LONG[:300] + first.text[0] + " Go on."))[0]

    assert second.finished[0].cached_tokens >= first.finished[0].prompt_tokens


def test_what_a_cancelled_request_has_read_is_kept(make_run: Callable[..., BatchRun]) -> None:
    run = make_run(batch_tokens=32)
    run.add(build(1, LONG[:600]))
    for _ in range(3):
        run.step()
    run.cancel(1)
    again = run.answer(build(2, LONG[:600]))[0]

    assert again.finished[0].cached_tokens >= 64


def test_a_request_may_be_cancelled_while_its_prompt_is_scored(run: BatchRun) -> None:
    options: dict[str, Any] = {"prompt_logprobs": True, "top_logprobs": 1}
    run.add(build(1, LONG[:800], **options), build(2, LONG[:400], **options))
    run.step()
    run.cancel(1)
    run.finish()

    assert run.answered[1].reason is FinishReason.CANCELLED
    assert len(run.answered[2].finished[0].prompt_logprobs) > 128


def test_answers_that_do_not_fit_together_take_turns(make_run: Callable[..., BatchRun]) -> None:
    roomy, small = make_run(context_length=2048), make_run(context_length=256)
    submits = [build(i, f"{i} " + LONG[:150], 60, no_cache=True) for i in range(1, 5)]
    wanted = [answer.text for answer in roomy.answer(*submits)]

    assert [answer.text for answer in small.answer(*submits)] == wanted
    assert small.batcher.counters.preemptions > 0
    assert roomy.batcher.counters.preemptions == 0


def test_closing_gives_the_memory_back() -> None:
    mx = load_library().mx
    before = mx.get_active_memory()
    batcher = open_batcher(build_config(), lambda _: None)
    BatchRun(batcher).answer(build(1, "a"))
    assert mx.get_active_memory() > before + batcher.info.weights_bytes // 2
    batcher.close()

    assert mx.get_active_memory() <= before + 100_000


def test_eight_bit_weights_answer_too(make_run: Callable[..., BatchRun], tmp_path: Path) -> None:
    tokenizer = (TINY_MLX / "tokenizer.json").read_text(encoding="utf-8")
    write_mlx(load_file(TINY_MLX / "model.safetensors"), tokenizer, tmp_path, quantised=True)
    run = make_run(tmp_path)
    name = min(expected(), key=lambda name: len(prompt_for(name)) + len(text_for(name)))

    assert run.answer(submit(1, prompt_for(name)))[0].text[0] == text_for(name)
    assert run.batcher.info.weights_bytes < 1_300_000


def test_a_runner_process_serves_an_mlx_model(monkeypatch: pytest.MonkeyPatch) -> None:
    name = min(expected(), key=lambda name: len(text_for(name)))
    with ChildRunner(build_config()) as runner:
        answered = runner.complete(submit(1, prompt_for(name)))

    assert answered.text[0] == text_for(name)


def test_a_runner_process_reports_why_a_folder_does_not_load(tmp_path: Path) -> None:
    with ChildRunner(build_config(tmp_path)) as runner:
        failed = runner.wait_for_first(LoadFailed)

    assert failed.message == "the folder has no config.json"
