"""What request bodies become: requests of the pipeline, and the engine's submits."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from protos import engine_pb2
from services.api.access.keys import Role
from services.api.access.principal import Principal
from services.api.dialects.openai.schemas.chat_schema import ChatCompletionRequest
from services.api.dialects.openai.schemas.completions_schema import CompletionRequest
from services.api.dialects.openai.to_request import chat_to_request, completion_to_request
from services.api.generation.requests.answer_constraint import AnswerConstraint
from services.api.generation.requests.generation_request import ToolChoice
from services.api.generation.requests.to_engine import build_prompt, build_submit
from services.api.prompts.render import Conversation

PRINCIPAL = Principal(id="key_1", role=Role.USER, name="user")
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def make_request(**changes: Any) -> ChatCompletionRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **changes}
    return ChatCompletionRequest.model_validate_json(json.dumps(body))


def submit(**changes: Any) -> engine_pb2.Submit:
    request = chat_to_request(make_request(**changes), "t", PRINCIPAL)
    output = request.structured_output
    constraint = None if output is None else AnswerConstraint(output)
    prompt = engine_pb2.PromptText()
    return build_submit(request, [prompt], constraint, model="m:latest", tenant="")


def conversation(**changes: Any) -> Conversation:
    prompt = chat_to_request(make_request(**changes), "t", PRINCIPAL).prompt
    assert isinstance(prompt, Conversation)
    return prompt


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


def test_the_developer_role_becomes_system_and_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    found = conversation(
        messages=[{"role": "developer", "content": "d"}, {"role": "user", "content": parts}]
    )

    assert found.messages == [
        {"role": "system", "content": "d"},
        {"role": "user", "content": "a\nb"},
    ]


def test_an_answer_with_calls_needs_no_content() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    found = conversation(
        messages=[
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "r", "tool_call_id": "c1"},
        ]
    )

    assert found.messages[1:] == [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "r", "tool_call_id": "c1"},
    ]


def allow(mode: str, *names: str) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        (None, ["f", "g"]),
        ("auto", ["f", "g"]),
        ("none", None),
        ({"type": "function", "function": {"name": "g"}}, ["g"]),
        (allow("auto", "g"), ["g"]),
        (allow("required", "g", "f"), ["f", "g"]),
    ],
    ids=str,
)
def test_the_template_sees_the_tools_that_may_be_chosen(
    choice: object, names: list[str] | None
) -> None:
    tools = [
        TOOL,
        {"type": "web_search"},
        {"type": "function", "function": {"name": "g"}},
    ]
    found = conversation(tools=tools, tool_choice=choice).tools

    assert (None if found is None else [tool["function"]["name"] for tool in found]) == names


@pytest.mark.parametrize(
    ("choice", "found"),
    [
        (None, ToolChoice.AUTO),
        ("auto", ToolChoice.AUTO),
        ("none", ToolChoice.AUTO),
        ("required", ToolChoice.REQUIRED),
        ({"type": "function", "function": {"name": "f"}}, ToolChoice.REQUIRED),
        (allow("auto", "f"), ToolChoice.AUTO),
        (allow("required", "f"), ToolChoice.REQUIRED),
    ],
    ids=str,
)
def test_a_choice_that_leaves_no_other_answer_than_a_call_forces_it(
    choice: object, found: ToolChoice
) -> None:
    request = chat_to_request(make_request(tools=[TOOL], tool_choice=choice), "t", PRINCIPAL)

    assert request.tool_choice is found


def test_the_old_functions_are_tools_of_which_one_is_called() -> None:
    body = make_request(functions=[{"name": "f", "parameters": {}}], function_call="auto")
    request = chat_to_request(body, "t", PRINCIPAL)

    assert isinstance(request.prompt, Conversation)
    assert request.prompt.tools == [
        {"type": "function", "function": {"name": "f", "parameters": {}}}
    ]
    assert not request.parallel_tool_calls


def test_the_old_form_of_a_call_in_an_earlier_answer_is_a_call() -> None:
    call = {"name": "f", "arguments": "{}"}
    found = conversation(
        messages=[
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": None, "function_call": call},
            {"role": "function", "name": "f", "content": "r"},
        ]
    )

    assert found.messages[1] == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": call}],
    }


CALLED = {"tool_calls": [{"function": {"name": "f"}}]}


@pytest.mark.parametrize(
    ("last", "given", "continues"),
    [
        ({"role": "assistant", "content": "The"}, {}, True),
        ({"role": "assistant", "content": "The"}, {"add_generation_prompt": False}, True),
        ({"role": "assistant", "content": "The"}, {"add_generation_prompt": True}, False),
        ({"role": "assistant", "content": "The"}, {"continue_final_message": False}, False),
        ({"role": "assistant", "content": "The"}, {"continue_final_message": True}, True),
        ({"role": "assistant", "content": ""}, {}, False),
        ({"role": "assistant", "content": "The", **CALLED}, {}, False),
        ({"role": "user", "content": "hi"}, {}, False),
    ],
    ids=str,
)
def test_a_last_message_of_the_assistant_is_continued(
    last: dict[str, Any], given: dict[str, Any], continues: bool
) -> None:
    messages = [{"role": "user", "content": "hi"}, last]

    assert conversation(messages=messages, **given).continue_final_message is continues


@pytest.mark.parametrize("given", [None, True, False])
def test_parallel_calls_are_allowed_by_default(given: bool | None) -> None:
    request = chat_to_request(make_request(parallel_tool_calls=given), "t", PRINCIPAL)

    assert request.parallel_tool_calls is (given is not False)


@pytest.mark.parametrize(
    ("given", "is_thinking", "effort"),
    [
        ({}, None, None),
        ({"reasoning_effort": "low"}, None, "low"),
        ({"reasoning_effort": "none"}, False, "none"),
        ({"reasoning_effort": "none", "enable_thinking": True}, True, "none"),
        ({"enable_thinking": False}, False, None),
        ({"chat_template_kwargs": {"enable_thinking": False}}, False, None),
    ],
    ids=str,
)
def test_thinking_is_switched_by_any_of_the_fields(
    given: dict[str, Any], is_thinking: bool | None, effort: str | None
) -> None:
    found = conversation(**given)

    assert (found.is_thinking, found.reasoning_effort) == (is_thinking, effort)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_earlier_thinking_reaches_the_template_under_one_name(name: str) -> None:
    answer = {"role": "assistant", "content": "b", name: "a"}
    found = conversation(messages=[{"role": "user", "content": "hi"}, answer])

    assert found.messages[1] == {"role": "assistant", "content": "b", "reasoning_content": "a"}


@pytest.mark.parametrize(("given", "is_separate"), [(None, True), ("auto", True), ("none", False)])
def test_the_reasoning_format_none_leaves_the_thinking_in_the_text(
    given: str | None, is_separate: bool
) -> None:
    request = chat_to_request(make_request(reasoning_format=given), "t", PRINCIPAL)

    assert request.separates_reasoning is is_separate


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999"])
def test_nan_and_infinity_are_refused(value: str) -> None:
    with pytest.raises(ValidationError):
        CompletionRequest.model_validate_json(
            f'{{"model": "m", "prompt": "a", "temperature": {value}}}'
        )
