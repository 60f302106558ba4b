"""What the messages, tools and thinking of a chat become for the template and the engine."""

from __future__ import annotations

from typing import Any

import pytest

from services.api.dialects.openai.to_request import chat_to_request
from services.api.generation.requests.generation_request import ToolChoice
from services.api.prompts.render import Conversation
from tests.api.dialects.openai.chat_bodies import PRINCIPAL, make_request

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def conversation(**changes: Any) -> Conversation:
    prompt = chat_to_request(make_request(**changes), "t", PRINCIPAL).prompt
    assert isinstance(prompt, Conversation)
    return prompt


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
