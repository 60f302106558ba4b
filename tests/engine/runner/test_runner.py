"""The runner as a process over the tiny trained model, compared with the model's known answers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.engine.core import (
    FinishReason,
    MemoryPolicy,
    Sampling,
    Stopping,
)
from services.engine.messages import commands, reports
from tests.engine.runner.child_runner import (
    Answered,
    ChildRunner,
    config,
    expected,
    prompt_for,
    submit,
    text_for,
)

LONG = Stopping(max_tokens=400)


def test_loading_reports_progress_and_then_the_model_info(shared_runner: ChildRunner) -> None:
    info = shared_runner.wait_for_first(reports.Ready).info

    assert (info.architecture, info.vocab_size, info.memory_policy) == (
        "llama",
        1024,
        MemoryPolicy.DENSE,
    )
    kinds = [type(r) for r in shared_runner.reports if not isinstance(r, reports.Heartbeat)]
    assert (
        kinds[: kinds.index(reports.Ready)].count(reports.Progress)
        == kinds.index(reports.Ready)
        > 0
    )
    assert shared_runner.wait_for_first(reports.Progress).fraction >= 0.0


def test_all_prompts_at_once_give_the_known_answers() -> None:
    names = sorted(expected())
    with ChildRunner(config()) as runner:
        for id_, name in enumerate(names):
            runner.send(submit(id_, prompt_for(name), stopping=LONG))
        answers = {
            name: runner.wait_for_answer(id_).text.get(0, "") for id_, name in enumerate(names)
        }

    assert answers == {name: text_for(name) for name in names}


def test_a_batch_gives_the_same_text_as_each_request_alone(
    shared_runner: ChildRunner, ids: Iterator[int]
) -> None:
    names = ["fact-26", "count-100", "fact-19", "fact-20"]
    alone = {
        name: shared_runner.complete(
            submit(next(ids), prompt_for(name), stopping=LONG, no_cache=True)
        ).text[0]
        for name in names
    }
    numbers = {name: next(ids) for name in names}
    for name, id_ in numbers.items():
        shared_runner.send(submit(id_, prompt_for(name), stopping=LONG))

    together = {name: shared_runner.wait_for_answer(id_).text[0] for name, id_ in numbers.items()}

    assert together == alone == {name: text_for(name) for name in names}


def test_failures_among_eight_streams_change_no_other_text() -> None:
    """One does not fit, one is cancelled, the reader pauses: five others get the same text."""
    five = ["fact-26", "count-50", "fact-22", "fact-23", "think-0"]
    with ChildRunner(config(context_length=1024)) as runner:
        runner.wait_for_first(reports.Ready)
        runner.send(submit(90, prompt_for("fact-26") * 80))  # does not fit
        runner.send(
            submit(91, prompt_for("count-100"), stopping=Stopping(max_tokens=500, ignore_eos=True))
        )
        runner.send(submit(92, prompt_for("fact-0"), sampling=Sampling(seed=5), stopping=LONG))
        for id_, name in enumerate(five):
            runner.send(submit(id_, prompt_for(name), stopping=LONG))
        runner.wait_until(lambda: runner.answered.get(91) and runner.answered[91].deltas)
        runner.pause_reading()
        runner.send(commands.Cancel((91,)))
        runner.resume_reading()

        texts = [runner.wait_for_answer(id_).text[0] for id_ in range(5)]
        overflowed, cancelled = runner.wait_for_answer(90), runner.wait_for_answer(91)

    assert texts == [text_for(name) for name in five]
    assert overflowed.error_code == "context_length_exceeded"
    assert cancelled.reason is FinishReason.CANCELLED


def test_a_system_prompt_of_sixteen_requests_is_computed_once() -> None:
    system = "You are a careful assistant. " * 12
    with ChildRunner(config(context_length=4096, max_sequences=16)) as runner:
        runner.wait_for_first(reports.Ready)
        for id_ in range(16):
            runner.send(submit(id_, f"{system} {id_:02}", stopping=Stopping(max_tokens=2)))
        answered = [runner.wait_for_answer(id_) for id_ in range(16)]
        counters = runner.next_heartbeat().counters

    prompt = answered[0].finished[0].prompt_tokens
    assert counters.prompt_tokens == 16 * prompt
    # The prompts differ only in their last few tokens.
    assert counters.computed_tokens <= prompt + 16 * 8


def test_the_same_prompt_again_reuses_all_tokens_but_the_last(
    shared_runner: ChildRunner, ids: Iterator[int]
) -> None:
    prompt = prompt_for("long-system")
    first = shared_runner.complete(submit(next(ids), prompt, stopping=LONG))
    again = shared_runner.complete(submit(next(ids), prompt, stopping=LONG))
    fresh = shared_runner.complete(submit(next(ids), prompt, stopping=LONG, no_cache=True))

    tokens = first.finished[0].prompt_tokens
    assert again.finished[0].cached_tokens == tokens - 1
    assert fresh.finished[0].cached_tokens == 0
    assert first.text == again.text == fresh.text
    assert again.started == reports.Started(again.finished[0].id, tokens, tokens - 1)


def test_a_prompt_of_another_realm_is_not_found_in_the_cache(
    shared_runner: ChildRunner, ids: Iterator[int]
) -> None:
    """`cached_tokens` would tell one key what another one sent, token by token."""
    prompt = "A secret that the holder of one key sends to the model."
    submits = [submit(next(ids), prompt, realm=realm) for realm in ("one", "other", "one")]
    cached = [shared_runner.complete(each).finished[0].cached_tokens for each in submits]

    assert cached[:2] == [0, 0]
    assert cached[2] > 0


def test_running_out_of_cells_changes_no_text() -> None:
    names = ["fact-26", "raw-0", "count-50", "raw-1", "raw-2"]
    with ChildRunner(config(context_length=256)) as runner:
        for id_, name in enumerate(names):
            runner.send(submit(id_, prompt_for(name), stopping=LONG))
        texts = [runner.wait_for_answer(id_).text[0] for id_ in range(len(names))]
        counters = runner.next_heartbeat().counters

    assert counters.preemptions > 0
    assert texts == [text_for(name) for name in names]


@pytest.mark.parametrize("preset", ["tiny-window", "tiny-recurrent", "tiny-hybrid"])
def test_every_memory_policy_gives_the_same_answers_as_each_request_alone(
    preset: str, synthetic_model: Callable[[str], Path]
) -> None:
    load = config(synthetic_model(preset), context_length=1024, max_sequences=4)
    system = "Every one of these prompts begins with the very same sentence. " * 4
    prompts = [system + tail for tail in ("first", "second one", "and a third", "fourth", "5th")]
    options = {"stopping": Stopping(max_tokens=24, ignore_eos=True), "top_logprobs": 2}
    with ChildRunner(load) as runner:
        alone = [
            runner.complete(submit(id_, prompt, no_cache=True, **options))
            for id_, prompt in enumerate(prompts)
        ]
    with ChildRunner(load) as runner:
        for first_id in (0, 10):  # the second time from cached sequences
            for id_, prompt in enumerate(prompts, first_id):
                runner.send(submit(id_, prompt, **options))
            together = [
                runner.wait_for_answer(id_) for id_ in range(first_id, first_id + len(prompts))
            ]
            for one, other in zip(together, alone, strict=True):
                assert_same_answer(one, other)
        cached = [answered.finished[0].cached_tokens for answered in together]

    assert all(count > len(system) / 16 for count in cached), cached


def test_a_window_model_does_not_answer_from_a_prefix_that_it_has_lost(
    synthetic_model: Callable[[str], Path],
) -> None:
    """A neighbour that needs more than the hole before a long chat takes the chat's older cells."""
    load = config(synthetic_model("tiny-window"), context_length=1024, max_sequences=4)
    draw = random.Random(3)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(5, 1000) for _ in range(count))

    system = tokens(200)
    short, chat, neighbour = tokens(60), system + tokens(300), tokens(260)
    question = system + tokens(9)

    def build(id_: int, ids: tuple[int, ...], count: int, **changes: Any) -> commands.Submit:
        stopping = Stopping(max_tokens=count, ignore_eos=True)
        return submit(id_, tokens=ids, stopping=stopping, top_logprobs=2, **changes)

    with ChildRunner(load) as runner:
        alone = runner.complete(build(1, question, 8, no_cache=True))
    with ChildRunner(load) as runner:
        runner.send(build(1, short, 40, no_cache=True))  # leaves the hole
        runner.send(build(2, chat, 4))
        runner.wait_for_answer(1)
        runner.wait_for_answer(2)
        runner.complete(build(3, neighbour, 4))
        answered = runner.complete(build(4, question, 8))

    assert_same_answer(answered, alone)
    assert answered.finished[0].cached_tokens < len(system)


def assert_same_answer(one: Answered, other: Answered) -> None:
    """Check that tokens and probabilities are equal, within the error of another order of addition.

    With random weights, two tokens are sometimes so close that the last bit decides. From there on
    the texts have nothing in common.
    """
    for mine, theirs in zip(one.logprobs, other.logprobs, strict=True):
        best, second = theirs.top
        assert mine.top[0].logprob == pytest.approx(best.logprob, abs=0.01)
        if mine.token != theirs.token:
            assert best.logprob - second.logprob < 0.01
            return


def test_speculation_changes_no_text_and_saves_steps() -> None:
    # The model was not trained on this, so it soon repeats itself.
    prompt, stopping = "1 2 3 " * 5, Stopping(max_tokens=100, ignore_eos=True)
    texts, steps = [], []
    for speculate in (False, True):
        with ChildRunner(config(speculate=speculate)) as runner:
            answered = runner.complete(submit(1, prompt, stopping=stopping))
            texts.append(answered.text)
            steps.append(runner.next_heartbeat().counters.steps)

    assert texts[0] == texts[1]
    assert steps[1] < 0.8 * steps[0]
    assert answered.finished[0].draft_accepted > 0


def test_a_dry_run_reports_sizes_without_loading() -> None:
    with ChildRunner(config(), "--estimate") as runner:
        info = runner.wait_for_first(reports.Ready).info
        status = runner.process.wait(30)

    assert status == 0
    assert (info.weights_bytes, info.kv_bytes) == (2_232_832, 4 << 20)
