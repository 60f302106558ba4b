"""How the thinking at the start of an answer is limited, token by token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from services.engine.backends.fake import FakeBackend
from services.engine.backends.fake_vocabulary import END, VOCAB_SIZE, FakeVocabulary
from services.engine.core import Constraint, LoadConfig, Sampling, Stopping
from services.engine.messages.commands import ThinkingBudget
from services.engine.runner.build import build_input_processor, build_step_batcher
from services.engine.runner.requests.answer import TextAnswer
from services.engine.runner.requests.grammar_tokenizers import build_tokenizer
from services.engine.runner.requests.input_processor import InputProcessor
from services.engine.runner.requests.structured_output import ConstraintCompiler
from services.engine.runner.sampling.row import Row
from services.shared.errors import InvalidRequest
from tests.engine.runner.child_runner import submit

# The tokens of the fake vocabulary are bytes.
BEFORE = 'start: ("<t>" /[^<]*/ "</t>")?\n'


@pytest.fixture(scope="module")
def processor() -> InputProcessor:
    config = LoadConfig(model_path="", backend="fake", context_length=512)
    return build_input_processor(build_step_batcher(FakeBackend(), config))


def open_answers(
    processor: InputProcessor, budget: ThinkingBudget, **changes: Any
) -> list[TextAnswer]:
    request = submit(1, "hi", thinking=budget, sampling=Sampling(temperature=0), **changes)
    return processor.prepare(request, arrived_at=0.0).answers


def build(max_tokens: int | None = None, **changes: Any) -> ThinkingBudget:
    return ThinkingBudget("<t>", "</t>", max_tokens=max_tokens, **changes)


def generate(answer: TextAnswer, wanted: bytes) -> bytes:
    """The answer of a model that would write `wanted`, unless other tokens are forced."""
    written = bytearray()
    for token in (*wanted, END):
        while answer.reason is None:
            logits = np.zeros(VOCAB_SIZE, np.float32)
            logits[token] = 9.0
            picked = answer.pick(Row(logits))
            if answer.write(picked):
                written.append(picked)
            if picked == token:
                break
    return bytes(written)


@pytest.mark.parametrize(
    ("budget", "wanted", "written"),
    [
        (build(3), b"<t>abcde", b"<t>abc</t>de"),
        (build(3), b"<t>abc</t>de", b"<t>abc</t>de"),
        (build(3), b"<t>a</t>bcdef", b"<t>a</t>bcdef"),
        (build(0), b"<t>ab", b"<t></t>ab"),
        (build(0), b"abcdef<t>gh", b"abcdef<t>gh"),
        (build(0), b" \n<t>ab", b" \n<t></t>ab"),
        (build(2, is_open=True), b"abc", b"ab</t>c"),
        (build(0, is_open=True), b"abc", b"</t>abc"),
        (build(3), b"<t>ab</t>cd", b"<t>ab</t>cd"),
        (build(3), b"<t>ab</xyz", b"<t>ab</x</t>yz"),
        (build(2), "<t>a\u00e9\u00e9".encode(), "<t>a\u00e9</t>\u00e9".encode()),
        (build(None), b"<t>abcdefgh", b"<t>abcdefgh"),
    ],
    ids=[
        "cut", "ends in time", "shorter", "none at all", "no thinking", "space before", "open",
        "none of an open one", "mark begun", "mark broken off", "inside a character", "no limit",
    ],
)  # fmt: skip
def test_the_thinking_ends_when_its_tokens_are_used(
    processor: InputProcessor, budget: ThinkingBudget, wanted: bytes, written: bytes
) -> None:
    (answer,) = open_answers(processor, budget)

    assert generate(answer, wanted) == written
    assert not answer.is_greedy


def test_a_model_that_begins_end_marks_for_ever_is_stopped(processor: InputProcessor) -> None:
    (answer,) = open_answers(processor, build(1))

    written = generate(answer, b"<t>" + 60 * b"<")

    thought, end, rest = written.removeprefix(b"<t>").partition(b"</t>")
    assert end
    assert 0 < len(thought) < 40
    assert len(rest) > 20


def test_every_answer_has_its_own_budget(processor: InputProcessor) -> None:
    answers = open_answers(processor, build(1), n=2)

    assert [generate(answer, b"<t>abc") for answer in answers] == [b"<t>a</t>bc"] * 2


@pytest.mark.parametrize(("max_tokens", "thought"), [(20, 10), (3000, 3000 - 1024)])
def test_a_part_of_the_answer_is_spared_for_what_must_follow(
    processor: InputProcessor, max_tokens: int, thought: int
) -> None:
    (answer,) = open_answers(
        processor,
        build(spares_answer=True),
        constraint=Constraint("regex", "ok", before=BEFORE),
        stopping=Stopping(max_tokens=max_tokens),
    )

    written = generate(answer, b"<t>" + b"a" * 2500 + b"ok")

    assert written == b"<t>" + b"a" * thought + b"</t>ok"


def test_a_constraint_without_thinking_has_the_last_word(processor: InputProcessor) -> None:
    (answer,) = open_answers(processor, build(0), constraint=Constraint("regex", "<t>ab"))

    assert generate(answer, b"<t>ab") == b"<t>ab"


def test_a_mark_that_would_end_the_answer_is_refused() -> None:
    class Ending(FakeVocabulary):
        end_tokens = (ord("/"),)

    compiler = ConstraintCompiler(lambda: build_tokenizer([], ends=(0,)))
    with pytest.raises(InvalidRequest, match="cannot be ended"):
        open_answers(InputProcessor(Ending(), compiler, context_length=64), build(1))
