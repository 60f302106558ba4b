"""The options of a request, on a runner with the tiny trained model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from services.engine.core import Constraint, FinishReason, Sampling, Stopping, TextPiece, Trigger
from services.engine.messages import commands, reports
from tests.engine.runner.child_runner import (
    ChildRunner,
    config,
    fake_config,
    prompt_for,
    submit,
    text_for,
)


def test_each_answer_of_a_request_has_its_own_seed(
    shared_runner: ChildRunner, ids: Iterator[int]
) -> None:
    wild = Sampling(temperature=3.0, top_p=1.0, min_p=0.0, seed=7)
    asked = submit(next(ids), "Once upon a", n=3, sampling=wild)
    several = shared_runner.complete(asked)
    second = shared_runner.complete(
        submit(next(ids), "Once upon a", sampling=msgspec.structs.replace(wild, seed=8))
    )

    assert len(set(several.text.values())) == 3
    # Only the beginning: beside others, the last bit of a logit may differ, and sooner or later a
    # draw falls between the two values.
    assert several.text[1][:8] == second.text[0][:8]


def test_a_stop_string_ends_an_answer_and_is_not_shown(
    shared_runner: ChildRunner, ids: Iterator[int]
) -> None:
    answered = shared_runner.complete(
        submit(next(ids), prompt_for("count-20"), stopping=Stopping(strings=(" 11", " 15")))
    )

    assert answered.text[0] == "1 2 3 4 5 6 7 8 9 10"
    assert (answered.reason, answered.finished[0].stop_string) == (FinishReason.STOP, " 11")


def test_a_stop_token_ends_an_answer(shared_runner: ChildRunner, ids: Iterator[int]) -> None:
    free = shared_runner.complete(submit(next(ids), prompt_for("count-10"), top_logprobs=0))
    tokens = [entry.token for delta in free.deltas for entry in delta.logprobs]

    answered = shared_runner.complete(
        submit(next(ids), prompt_for("count-10"), stopping=Stopping(token_ids=(tokens[4],)))
    )

    assert answered.finished[0].completion_tokens == tokens.index(tokens[4])
    assert answered.reason is FinishReason.STOP


def test_max_tokens_is_exact(shared_runner: ChildRunner, ids: Iterator[int]) -> None:
    answered = shared_runner.complete(
        submit(next(ids), prompt_for("count-100"), stopping=Stopping(max_tokens=7))
    )

    assert (answered.reason, answered.finished[0].completion_tokens) == (FinishReason.LENGTH, 7)
    assert sum(delta.tokens for delta in answered.deltas) == 7


def test_max_tokens_zero_gives_no_text(shared_runner: ChildRunner, ids: Iterator[int]) -> None:
    answered = shared_runner.complete(
        submit(next(ids), prompt_for("fact-0"), stopping=Stopping(max_tokens=0))
    )

    assert (answered.text, answered.reason) == ({}, FinishReason.LENGTH)


def test_a_full_context_ends_an_answer() -> None:
    with ChildRunner(config(context_length=256)) as runner:
        answered = runner.complete(
            submit(1, "a", stopping=Stopping(max_tokens=None, ignore_eos=True))
        )

    finished = answered.finished[0]
    assert finished.reason is FinishReason.LENGTH
    assert finished.prompt_tokens + finished.completion_tokens == 256


def test_min_tokens_and_ignore_eos_delay_the_end(
    shared_runner: ChildRunner, ids: Iterator[int]
) -> None:
    prompt = prompt_for("fact-0")
    held = shared_runner.complete(
        submit(next(ids), prompt, stopping=Stopping(max_tokens=30, min_tokens=12))
    )
    ignored = shared_runner.complete(
        submit(next(ids), prompt, stopping=Stopping(max_tokens=30, ignore_eos=True))
    )

    assert held.finished[0].completion_tokens >= 12
    assert ignored.finished[0].completion_tokens == 30


def test_an_answer_follows_its_constraint(shared_runner: ChildRunner, ids: Iterator[int]) -> None:
    constraint = Constraint("regex", "(red|green|blue) [0-9]{3}")
    for seed in range(5):
        answered = shared_runner.complete(
            submit(
                next(ids),
                "hello",
                constraint=constraint,
                sampling=Sampling(temperature=2, seed=seed),
            )
        )
        colour, number = answered.text[0].split(" ")
        assert colour in ("red", "green", "blue")
        assert len(number) == 3
        assert number.isdigit()


def test_a_constraint_with_a_trigger_binds_only_what_follows_it(
    shared_runner: ChildRunner, ids: Iterator[int]
) -> None:
    prompt = prompt_for("fact-0")
    free = shared_runner.complete(submit(next(ids), prompt))
    bound = Constraint("lark", 'start: "is#" /[0-9]{3}/', "", Trigger(text="is"))
    never = Constraint("regex", "never", "", Trigger(text="never"))

    answered = shared_runner.complete(
        submit(next(ids), prompt, constraint=bound, stopping=Stopping(max_tokens=40))
    )
    unbound = shared_runner.complete(submit(next(ids), prompt, constraint=never))

    assert free.text == unbound.text == {0: "Paris."}
    assert re.fullmatch(r"Paris#\d{3}.+", answered.text[0], re.DOTALL)


def test_a_deeply_nested_constraint_does_not_end_the_runner(
    shared_runner: ChildRunner, ids: Iterator[int]
) -> None:
    arrays = '{"type":"array","items":' * 50 + '{"$ref":"#/%d"}' + "}" * 50
    parts = ",".join(f'"{number}":{arrays % (number + 1)}' for number in range(100))
    schema = f'{{"$ref":"#/0",{parts},"100":{{"type":"integer"}}}}'  # 5000 levels

    got = shared_runner.complete(
        submit(
            next(ids),
            "Answer: ",
            constraint=Constraint("json_schema", schema),
            stopping=Stopping(max_tokens=3),
        )
    )

    assert got.reason is FinishReason.LENGTH


def test_logprobs_come_with_the_text(shared_runner: ChildRunner, ids: Iterator[int]) -> None:
    answered = shared_runner.complete(submit(next(ids), prompt_for("fact-0"), top_logprobs=2))

    entries = [entry for delta in answered.deltas for entry in delta.logprobs]
    assert b"".join(entry.text for entry in entries).decode() == answered.text[0]
    assert all(entry.top[0].token == entry.token for entry in entries)  # greedy
    assert all(entry.logprob <= 0.0 for entry in entries)


def test_prompt_logprobs_cover_every_token_but_the_first(
    shared_runner: ChildRunner, ids: Iterator[int]
) -> None:
    prompt = prompt_for("fact-26") + text_for("fact-26")
    answered = shared_runner.complete(
        submit(next(ids), prompt, prompt_logprobs=True, stopping=Stopping(max_tokens=0))
    )

    finished = answered.finished[0]
    entries = finished.prompt_logprobs
    assert len(entries) == finished.prompt_tokens - 1
    # The model was trained on this answer, so its own tokens are nearly certain.
    answer = entries[-100:]
    assert sum(entry.logprob for entry in answer) / len(answer) > -0.5
    # Control and end tokens included.
    assert prompt.endswith(b"".join(entry.text for entry in entries).decode())
    assert "<|im_end|>" in prompt


def test_a_prompt_may_be_given_as_tokens(shared_runner: ChildRunner, ids: Iterator[int]) -> None:
    number = next(ids)
    shared_runner.send(
        commands.Tokenize(number, (TextPiece(prompt_for("fact-0")),), add_special=False)
    )
    shared_runner.wait_until(
        lambda: any(isinstance(r, reports.Tokenized) for r in shared_runner.reports)
    )
    tokens = shared_runner.wait_for_first(reports.Tokenized).ids

    answered = shared_runner.complete(submit(next(ids), tokens=tokens))

    assert answered.text[0] == "Paris."


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        pytest.param({"tokens": (1, 99999)}, "invalid_request", id="token out of range"),
        pytest.param({"tokens": (-1,)}, "invalid_request", id="negative token"),
        pytest.param({"tokens": ()}, "invalid_request", id="no token"),
        pytest.param({"tokens": (5,) * 2048}, "context_length_exceeded", id="too long"),
        pytest.param({"tokens": (5,), "n": 0}, "invalid_request", id="no answer"),
        pytest.param(
            {"tokens": (5,), "constraint": Constraint("json_schema", "{")},
            "invalid_request",
            id="schema that is no JSON",
        ),
        pytest.param(
            {"tokens": (5,), "constraint": Constraint("regex", "(")},
            "invalid_request",
            id="broken regex",
        ),
        pytest.param(
            {"tokens": (5,), "sampling": Sampling(logit_bias={4096: 1.0})},
            "invalid_request",
            id="bias of no token",
        ),
    ],
)
def test_a_bad_request_fails_before_it_is_queued(
    shared_runner: ChildRunner, ids: Iterator[int], changes: dict[str, Any], code: str
) -> None:
    answered = shared_runner.complete(submit(next(ids), **changes))

    assert answered.error_code == code
    assert answered.started is None


def test_a_negative_seed_is_reproducible(shared_runner: ChildRunner, ids: Iterator[int]) -> None:
    texts = [
        shared_runner.complete(
            submit(next(ids), "Once", sampling=Sampling(temperature=1.0, seed=-3))
        ).text
        for _ in range(2)
    ]

    assert texts[0] == texts[1]


def test_tokenize_returns_the_token_ids() -> None:
    with ChildRunner(fake_config()) as runner:
        runner.send(
            commands.Tokenize(9, (TextPiece("ab"), TextPiece("<|turn|>")), add_special=False)
        )

        assert runner.wait_for_first(reports.Tokenized) == reports.Tokenized(9, (97, 98, 257))


def test_detokenize_returns_the_text_also_of_control_and_end_tokens() -> None:
    with ChildRunner(fake_config()) as runner:
        runner.send(commands.Detokenize(9, (97, 257, 0xC3, 0xA9, 0xFF, 256)))

        text = "a<|turn|>\u00e9\ufffd<|end|>"
        assert runner.wait_for_first(reports.Detokenized) == reports.Detokenized(9, text)
