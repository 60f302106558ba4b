"""Answers that a runner forces into hundreds of generated schemas, checked by another validator."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings

from services.engine.core import Constraint, FinishReason, Sampling, Stopping
from tests.engine.runner.child_runner import ChildRunner, prompt_for, submit
from tests.json_schemas.strategies import Schema, schemas
from tests.json_schemas.validator import validate

WAYS = [Sampling(temperature=0.0), Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=1)]
MAX_TOKENS = 400


def force(runner: ChildRunner, ids: Iterator[int], schema: Schema) -> list[str]:
    """The answers that ended by themselves, one for each way to sample at most; all at once."""
    constraint = Constraint("json_schema", json.dumps(schema))
    numbers = [next(ids) for _ in WAYS]
    for number, sampling in zip(numbers, WAYS, strict=True):
        runner.send(
            submit(
                number,
                prompt_for("fact-0"),
                sampling=sampling,
                constraint=constraint,
                stopping=Stopping(max_tokens=MAX_TOKENS),
            )
        )
    answers = [runner.wait_for_answer(number) for number in numbers]
    assert all(answer.failed is None for answer in answers), (schema, answers)
    return [answer.text[0] for answer in answers if answer.reason is FinishReason.STOP]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "count",
    [pytest.param(40, id="quick"), pytest.param(1000, id="all", marks=pytest.mark.slow)],
)
def test_every_forced_answer_is_json_of_its_schema(
    shared_runner: ChildRunner, ids: Iterator[int], count: int
) -> None:
    answers = 0

    @settings(
        max_examples=count * 11 // 20,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(schema=schemas())
    def check(schema: Schema) -> None:
        nonlocal answers
        for text in force(shared_runner, ids, schema):
            validate(text, schema)
            answers += 1

    check()

    assert answers >= count  # those that were cut off count as none
