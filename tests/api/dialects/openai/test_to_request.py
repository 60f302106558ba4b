"""What request bodies become: requests of the pipeline, and the engine's submits."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from protos import engine_pb2
from services.api.dialects.openai.schemas.completions_schema import CompletionRequest
from services.api.dialects.openai.to_request import chat_to_request, completion_to_request
from services.api.generation.requests.answer_constraint import AnswerConstraint
from services.api.generation.requests.to_engine import build_prompt, build_submit
from tests.api.dialects.openai.chat_bodies import PRINCIPAL, make_request


def submit(**changes: Any) -> engine_pb2.Submit:
    request = chat_to_request(make_request(**changes), "t", PRINCIPAL)
    output = request.structured_output
    constraint = None if output is None else AnswerConstraint(output)
    prompt = engine_pb2.PromptText()
    return build_submit(request, [prompt], constraint, model="m:latest", tenant="")


def test_options_that_are_absent_are_not_sent() -> None:
    assert submit() == engine_pb2.Submit(
        trace_id="t",
        model="m:latest",
        principal="key_1",
        n=1,
        lane=engine_pb2.LANE_INTERACTIVE,
        text=engine_pb2.PromptText(),
        sampling=engine_pb2.Sampling(),
        stopping=engine_pb2.Stopping(),
        keep_alive_only_extends=True,  # of a user key
    )


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"temperature": 0}, engine_pb2.Sampling(temperature=0)),
        ({"top_k": -1}, engine_pb2.Sampling(top_k=0)),
        ({"seed": -1}, engine_pb2.Sampling()),
        ({"seed": 2**63}, engine_pb2.Sampling(seed=2**63)),
        ({"repetition_penalty": 1.5}, engine_pb2.Sampling(repeat_penalty=1.5)),
        ({"repeat_penalty": None, "repetition_penalty": 2}, engine_pb2.Sampling(repeat_penalty=2)),
        ({"logit_bias": {"7": -100}}, engine_pb2.Sampling(logit_bias={7: -100})),
        (
            {"min_p": 0.5, "dry_multiplier": 0.25, "xtc_probability": 1},
            engine_pb2.Sampling(min_p=0.5, dry_multiplier=0.25, xtc_probability=1),
        ),
    ],
    ids=str,
)
def test_sampling_options_become_the_sampling_message(
    given: dict[str, Any], sent: engine_pb2.Sampling
) -> None:
    assert submit(**given).sampling == sent


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"stop": "x"}, engine_pb2.Stopping(strings=["x"])),
        ({"stop": ["x", "", "y"]}, engine_pb2.Stopping(strings=["x", "y"])),
        ({"max_tokens": 5}, engine_pb2.Stopping(max_tokens=5)),
        ({"max_tokens": 5, "max_completion_tokens": 6}, engine_pb2.Stopping(max_tokens=6)),
        (
            {"ignore_eos": True, "min_tokens": 3, "stop_token_ids": [4]},
            engine_pb2.Stopping(ignore_eos=True, min_tokens=3, token_ids=[4]),
        ),
    ],
    ids=str,
)
def test_stopping_options_become_the_stopping_message(
    given: dict[str, Any], sent: engine_pb2.Stopping
) -> None:
    assert submit(**given).stopping == sent


SCHEMA = {"type": "object", "properties": {"ä": {"type": "string"}}}
SCHEMA_TEXT = json.dumps(SCHEMA, ensure_ascii=False)


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, {"json_schema": '{"type": "object"}'}),
        (
            {"response_format": {"type": "json_object", "schema": SCHEMA}},
            {"json_schema": SCHEMA_TEXT},
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
            {"json_schema": SCHEMA_TEXT},
        ),
        ({"json_schema": SCHEMA}, {"json_schema": SCHEMA_TEXT}),
        ({"grammar": 'root ::= "a"'}, {"gbnf": 'root ::= "a"'}),
        ({"guided_regex": "a+"}, {"regex": "a+"}),
    ],
    ids=str,
)
def test_a_response_format_or_grammar_becomes_a_constraint(
    given: dict[str, Any], sent: dict[str, Any] | None
) -> None:
    found = submit(**given)

    assert found.HasField("constraint") is (sent is not None)
    assert found.constraint == engine_pb2.Constraint(**(sent or {}))


@pytest.mark.parametrize(
    ("given", "seconds"), [(5, 5), (-1, -1), ("90s", 90), ("5m", 300), ("1h", 3600), ("-1", -1)]
)
def test_keep_alive_is_seconds_or_a_duration(given: object, seconds: float) -> None:
    assert submit(keep_alive=given).keep_alive_seconds == seconds


def test_lane_cache_and_deadline_are_sent() -> None:
    found = submit(lane="batch", cache_prompt=False, timeout=3)

    assert (found.lane, found.no_cache, found.deadline_seconds) == (
        engine_pb2.LANE_BATCH,
        True,
        3,
    )


def test_the_options_of_several_prompts_are_sent_once() -> None:
    body = CompletionRequest.model_validate(
        {"model": "m", "prompt": ["a", "b"], "n": 2, "json_schema": {"type": "object"}}
    )
    request = completion_to_request(body, "t", PRINCIPAL)
    assert isinstance(request.prompt, tuple)
    found = build_submit(
        request, [build_prompt(prompt) for prompt in request.prompt], model="m", tenant="team"
    )

    assert (request.prompt_count, request.answer_count) == (2, 4)
    assert (found.n, found.tenant) == (2, "team")
    assert found.text.pieces[0].text == "a"
    text = engine_pb2.PromptText(pieces=[engine_pb2.TextPiece(text="b")], add_special=True)
    assert list(found.further_prompts) == [engine_pb2.FurtherPrompt(text=text)]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999"])
def test_nan_and_infinity_are_refused(value: str) -> None:
    with pytest.raises(ValidationError):
        CompletionRequest.model_validate_json(
            f'{{"model": "m", "prompt": "a", "temperature": {value}}}'
        )
