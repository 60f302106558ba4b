"""An agent's loop with the real engine and the tiny model: call, result, answer; and thinking."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.flows.stack import RunningStack

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
ONE_CITY = "What is the weather in Lima?"
TWO_CITIES = "What is the weather in Paris and Tokyo?"
SUM = "Think: what is 12 plus 30?"


def build(question: str, **changes: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}]
    return {"model": "tiny", "temperature": 0, "messages": messages, **changes}


def read_cities(message: Any) -> list[str]:
    return [json.loads(call.function.arguments)["city"] for call in message.tool_calls]


def test_an_agent_calls_a_tool_while_streaming_and_answers_with_its_result(
    stack: RunningStack,
) -> None:
    body = build(ONE_CITY, tools=[WEATHER])
    with stack.openai() as client:
        with client.chat.completions.stream(**body) as stream:
            names = [event.type for event in stream]
            first = stream.get_final_completion().choices[0]
        (call,) = first.message.tool_calls or []
        result = {"city": "Lima", "sky": "sunny", "degrees": 21}
        messages = [
            *body["messages"],
            {
                "role": "assistant",
                "content": first.message.content,
                "tool_calls": [call.model_dump(include={"id", "type", "function"})],
            },
            {"role": "tool", "tool_call_id": call.id, "content": json.dumps(result)},
        ]
        answer = client.chat.completions.create(**{**body, "messages": messages})

    assert (first.finish_reason, read_cities(first.message)) == ("tool_calls", ["Lima"])
    assert "tool_calls.function.arguments.delta" in names
    assert (answer.choices[0].message.content or "").startswith("It is sunny in ")
    assert answer.choices[0].finish_reason == "stop"


def test_two_calls_come_in_one_answer(stack: RunningStack) -> None:
    with stack.openai() as client:
        answer = client.chat.completions.create(**build(TWO_CITIES, tools=[WEATHER]))

    assert read_cities(answer.choices[0].message) == ["Paris", "Tokyo"]


def test_a_second_call_is_not_even_written_without_parallel_calls(stack: RunningStack) -> None:
    body = build(TWO_CITIES, tools=[WEATHER])
    with stack.openai() as client:
        both = client.chat.completions.create(**body)
        one = client.chat.completions.create(**body, parallel_tool_calls=False)

    assert read_cities(one.choices[0].message) == ["Paris"]
    assert one.usage is not None
    assert both.usage is not None
    assert one.usage.completion_tokens < both.usage.completion_tokens
    assert one.usage.prompt_tokens == both.usage.prompt_tokens


def test_tools_that_are_not_needed_change_nothing(stack: RunningStack) -> None:
    with stack.openai() as client:
        answer = client.chat.completions.create(
            **build("What is the capital of France?", tools=[WEATHER])
        )

    assert answer.choices[0].message.content == "Paris."
    assert answer.choices[0].message.tool_calls is None


@pytest.mark.parametrize("template_opens", [False, True], ids=["the model opens", "opened"])
def test_thinking_is_apart_and_its_tokens_are_counted(
    stack: RunningStack, template_opens: bool
) -> None:
    options = {"chat_template_kwargs": {"open_thinking": template_opens}}
    with stack.openai() as client:
        answer = client.chat.completions.create(**build(SUM), extra_body=options)

    message = answer.choices[0].message
    thought = "I add 12 and 30. Ten plus thirty is forty, and two more is 42."
    assert (message.content, getattr(message, "reasoning", "")) == ("The answer is 42.", thought)
    assert answer.usage is not None
    details = answer.usage.completion_tokens_details
    assert details is not None
    assert details.reasoning_tokens is not None
    assert 0 < details.reasoning_tokens < answer.usage.completion_tokens


def test_thinking_is_switched_off(stack: RunningStack) -> None:
    with stack.openai() as client:
        answer = client.chat.completions.create(**build(SUM), reasoning_effort="none")

    assert answer.choices[0].message.content == "The answer is 42."
    assert getattr(answer.choices[0].message, "reasoning", None) is None
