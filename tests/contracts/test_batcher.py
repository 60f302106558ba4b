"""The contract of batchers (services/engine/runner/batcher.py), on real models and on the fake."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.engine.core import Constraint, FinishReason, Sampling, Stopping, TokenLogprob
from services.engine.messages.commands import Submit
from services.engine.runner.batcher import Batcher
from services.engine.runner.build import open_batcher
from services.shared.errors import ContextLengthExceeded, InvalidRequest
from tests.contracts.batching import BatchRun
from tests.contracts.kinds import build_config, get_logprob_tolerance
from tests.engine.runner.child_runner import Answered, expected, prompt_for, submit, text_for

TOKENS = 24
TOP = 4  # logprobs of each token: one more than may be as likely as the best one
SYSTEM = "Every one of these prompts begins with the very same sentence. " * 3
TAILS = ("first", "second one", "and a third", "fourth", "5th", "the sixth")
GREEDY = Sampling(temperature=0.0)
SEEDED = Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=11)

ids = itertools.count(1)


@pytest.fixture(scope="module")
def opened(
    kind: str, tmp_path_factory: pytest.TempPathFactory, synthetic_model: Callable[[str], Path]
) -> Iterator[Batcher]:
    config = build_config(kind, tmp_path_factory.mktemp("batcher"), synthetic_model)
    batcher = open_batcher(config, lambda _: None)
    yield batcher
    batcher.close()
    batcher.close()


@pytest.fixture
def run(opened: Batcher) -> Iterator[BatchRun]:
    run = BatchRun(opened)
    yield run
    assert opened.read_state().is_idle


def build(text: str, **changes: Any) -> Submit:
    """A greedy request for exactly TOKENS tokens with their probabilities."""
    options: dict[str, Any] = {
        "sampling": GREEDY,
        "stopping": Stopping(max_tokens=TOKENS, ignore_eos=True),
        "top_logprobs": TOP,
    }
    return submit(next(ids), text, **options | changes)


def alone(run: BatchRun, text: str, **changes: Any) -> Answered:
    """The answer that nothing else shares a step or a computed token with."""
    return run.answer(build(text, no_cache=True, **changes))[0]


def assert_same(one: Answered, other: Answered, kind: str, *, index: int = 0) -> None:
    """Equal tokens and probabilities, up to the error of another order of addition.

    With random weights two tokens are sometimes so close that this error decides; from there on
    the texts have nothing in common.
    """
    tolerance = get_logprob_tolerance(kind)
    mine, theirs = list_entries(one, index), list_entries(other)
    assert len(mine) == len(theirs) > 0
    for entry, wanted in zip(mine, theirs, strict=True):
        assert entry.top[0].logprob == pytest.approx(wanted.top[0].logprob, abs=tolerance)
        if entry.token != wanted.token:
            likely = {other.token: other.logprob for other in wanted.top}
            assert entry.token in likely
            assert wanted.logprob - likely[entry.token] < tolerance
            return


def assert_same_draws(one: Answered, other: Answered, kind: str, *, index: int = 0) -> None:
    """Equal tokens; with real numbers, up to a draw that falls between two tokens' shares."""
    mine, theirs = list_entries(one, index), list_entries(other)
    if kind.startswith("fake"):
        assert mine == theirs
        return
    assert mine[0].token == theirs[0].token
    for entry, wanted in zip(mine, theirs, strict=True):
        assert entry.top[0].logprob == pytest.approx(
            wanted.top[0].logprob, abs=get_logprob_tolerance(kind)
        )
        if entry.token != wanted.token:
            return


def list_entries(answered: Answered, index: int = 0) -> list[TokenLogprob]:
    return [e for delta in answered.deltas if delta.index == index for e in delta.logprobs]


def test_the_trained_model_gives_its_known_answers(run: BatchRun, kind: str) -> None:
    if not kind.startswith("tiny"):
        pytest.skip("only the trained model has known answers")
    names = [name for name in sorted(expected()) if len(text_for(name)) < 120][:12]
    stopping = Stopping(max_tokens=400)

    one_by_one = run.answer_one_by_one(
        build(prompt_for(name), stopping=stopping, no_cache=True) for name in names
    )
    together = run.answer(*(build(prompt_for(name), stopping=stopping) for name in names))

    for answers in (one_by_one, together):
        assert [answer.text[0] for answer in answers] == [text_for(name) for name in names]
        assert {answer.reason for answer in answers} == {FinishReason.STOP}


def test_a_batch_gives_the_answers_of_each_request_alone(run: BatchRun, kind: str) -> None:
    wanted = [alone(run, SYSTEM + tail) for tail in TAILS]
    together = run.answer(*(build(SYSTEM + tail) for tail in TAILS))

    for one, other in zip(together, wanted, strict=True):
        assert_same(one, other, kind)


def test_a_remembered_prompt_gives_the_same_answer(run: BatchRun, kind: str) -> None:
    text = "Remember this prompt. " + SYSTEM
    wanted = alone(run, text)
    run.answer(build(text))
    again = run.answer(build(text))[0]
    longer = run.answer(build(text + " And then it goes on."))[0]

    assert again.finished[0].cached_tokens > 0
    assert longer.finished[0].cached_tokens > 0
    assert_same(again, wanted, kind)
    assert_same(longer, alone(run, text + " And then it goes on."), kind)


def test_only_the_same_realm_remembers(run: BatchRun, kind: str) -> None:
    text = "What one key sent, another one must not find. " * 4
    cached = [
        run.answer(build(text, realm=realm))[0].finished[0].cached_tokens
        for realm in ("one", "other", "one")
    ]

    assert cached[:2] == [0, 0]
    # Cells before a window may be taken at any time: then nothing is left after the second.
    assert cached[2] > 0 or "window" in kind


def test_a_cancelled_request_ends_and_changes_no_other(run: BatchRun, kind: str) -> None:
    wanted = alone(run, SYSTEM + "stays")
    leaves, stays, waits = build(SYSTEM + "leaves"), build(SYSTEM + "stays"), build(SYSTEM * 2)
    run.add(leaves, stays, waits)
    run.step()
    run.cancel(waits.id)
    while not run.answered[leaves.id].deltas:
        run.step()
    run.cancel(leaves.id)
    run.cancel(leaves.id)  # unknown by now
    run.finish()

    assert run.answered[leaves.id].reason is FinishReason.CANCELLED
    assert run.answered[waits.id].reason is FinishReason.CANCELLED
    assert_same(run.answered[stays.id], wanted, kind)


def test_a_seed_gives_the_same_answer_alone_and_in_a_batch(run: BatchRun, kind: str) -> None:
    wanted = [alone(run, SYSTEM, sampling=SEEDED) for _ in range(2)]
    seeded = build(SYSTEM, sampling=SEEDED)
    run.answer(seeded, *(build(SYSTEM + tail) for tail in TAILS))

    assert_same_draws(wanted[0], wanted[1], kind)
    assert_same_draws(run.answered[seeded.id], wanted[0], kind)


def test_each_answer_of_a_request_is_sampled_for_itself(run: BatchRun, kind: str) -> None:
    several = run.answer(build(SYSTEM, n=3, sampling=SEEDED))[0]
    second = Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=12)

    assert set(several.finished) == {0, 1, 2}
    assert len(set(several.text.values())) == 3
    assert_same_draws(several, alone(run, SYSTEM, sampling=second), kind, index=1)


def test_a_constraint_holds_among_others(run: BatchRun) -> None:
    pattern = "(red|green|blue) [0-9]{3}"
    bound = [
        build(
            "hello",
            constraint=Constraint("regex", pattern),
            sampling=Sampling(temperature=2.0, seed=seed),
            stopping=Stopping(max_tokens=TOKENS),
        )
        for seed in range(3)
    ]
    answers = run.answer(*bound, build(SYSTEM))

    for answer in answers[:3]:
        assert re.fullmatch(pattern, answer.text[0])
        assert answer.reason is FinishReason.STOP


def test_a_stop_string_ends_an_answer(run: BatchRun) -> None:
    free = alone(run, SYSTEM + "stop")
    stop = free.text[0][8:11]

    stopping = Stopping(max_tokens=TOKENS, ignore_eos=True, strings=(stop,))
    answer = run.answer(build(SYSTEM + "stop", stopping=stopping))[0]

    assert stop not in answer.text.get(0, "")
    assert free.text[0].startswith(answer.text.get(0, ""))
    assert answer.finished[0].stop_string == stop


def test_limits_are_exact(run: BatchRun) -> None:
    none, one, seven = run.answer(
        *(build(SYSTEM, stopping=Stopping(max_tokens=n, ignore_eos=True)) for n in (0, 1, 7))
    )

    counts = [answer.finished[0].completion_tokens for answer in (none, one, seven)]
    assert counts == [0, 1, 7]
    assert {answer.reason for answer in (none, one, seven)} == {FinishReason.LENGTH}


def test_prompt_logprobs_are_those_of_the_same_tokens_in_an_answer(
    run: BatchRun, kind: str
) -> None:
    asked = build("A short beginning", no_cache=True)
    answer = list_entries(run.answer(asked)[0])
    prompt = run.batcher.vocabulary.tokenize(asked.pieces or (), add_special=False)
    both = (*prompt, *(entry.token for entry in answer))

    options: dict[str, Any] = {
        "prompt_logprobs": True,
        "top_logprobs": 1,
        "stopping": Stopping(max_tokens=1),
    }
    scored = run.answer(submit(next(ids), tokens=both, **options))[0]

    entries = scored.finished[0].prompt_logprobs
    assert tuple(entry.token for entry in entries) == both[1:]
    for entry, wanted in zip(entries[-len(answer) :], answer, strict=True):
        assert entry.logprob == pytest.approx(wanted.logprob, abs=get_logprob_tolerance(kind))


def test_a_request_that_cannot_fit_is_refused_and_a_late_one_fails(run: BatchRun) -> None:
    info = run.batcher.info
    with pytest.raises(ContextLengthExceeded):
        run.add(submit(next(ids), tokens=(5,) * info.context_length))
    with pytest.raises(InvalidRequest):
        run.add(submit(next(ids), tokens=()))
    late = build(SYSTEM, deadline_seconds=0.0)

    assert run.answer(late)[0].error_code == "deadline_exceeded"


def test_more_requests_than_memory_all_get_their_answers(
    kind: str, tmp_path: Path, synthetic_model: Callable[[str], Path]
) -> None:
    """Memory is full and has holes: answers are preempted, prefixes evicted, windows lost."""
    config = build_config(kind, tmp_path, synthetic_model, context_length=256)
    draw = random.Random(7)
    texts = [SYSTEM[: draw.randrange(20, 120)] + tail * draw.randrange(1, 4) for tail in TAILS * 4]
    roomy = build_config(kind, tmp_path, synthetic_model)
    batcher = open_batcher(roomy, lambda _: None)
    try:
        reference = BatchRun(batcher)
        wanted = {text: alone(reference, text) for text in dict.fromkeys(texts)}
    finally:
        batcher.close()
    batcher = open_batcher(config, lambda _: None)
    try:
        run = BatchRun(batcher)
        submits = [build(text, no_cache=draw.random() < 0.3) for text in texts]
        for each in submits:
            run.add(each)
            for _ in range(draw.randrange(6)):
                run.step()
        run.finish()
        for each, text in zip(submits, texts, strict=True):
            assert_same(run.answered[each.id], wanted[text], kind)
    finally:
        batcher.close()
