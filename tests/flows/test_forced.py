"""Answers that the engine forces, with the tiny model; pydantic validates the arguments."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import openai
import pytest
from pydantic import BaseModel, ConfigDict, Field

from tests.flows.stack import RunningStack
from tests.flows.test_tools import ONE_CITY, SUM, TWO_CITIES, WEATHER, build, read_cities


class Strict(BaseModel):
    """No other members, no conversions."""

    model_config = ConfigDict(extra="forbid", strict=True)


class GetWeather(Strict):
    """Get the weather in a city."""

    city: str = Field(max_length=20)
    unit: Literal["C", "F"]


class GetTime(Strict):
    """Get the time in a zone."""

    offset: int = Field(ge=-12, le=14)


class Search(Strict):
    """Search the web."""

    words: list[Annotated[str, Field(max_length=12)]] = Field(min_length=1, max_length=2)
    limit: int | None = Field(ge=1, le=9)


TOOLS: dict[str, type[BaseModel]] = {
    "GetWeather": GetWeather,
    "GetTime": GetTime,
    "Search": Search,
}


def describe(strict: bool = False) -> list[Any]:
    tools = [openai.pydantic_function_tool(model) for model in TOOLS.values()]
    for tool in tools:
        tool["function"]["strict"] = strict
    return list(tools)


def check_calls(message: Any) -> list[str]:
    """The names of the calls, whose arguments are valid."""
    calls = message.tool_calls or []
    for call in calls:
        TOOLS[call.function.name].model_validate_json(call.function.arguments)
    return [call.function.name for call in calls]


@pytest.mark.parametrize(
    ("question", "parallel"),
    [(ONE_CITY, False), (TWO_CITIES, True), ("Count to 10.", False), ("Tell me a story.", False)],
)
def test_required_is_a_call_of_one_of_the_tools(
    stack: RunningStack, question: str, parallel: bool
) -> None:
    body = build(
        question,
        tools=describe(),
        tool_choice="required",
        parallel_tool_calls=parallel,
        max_tokens=150,
    )
    with stack.openai() as client:
        answer = client.chat.completions.create(**body).choices[0]
        with client.chat.completions.stream(**body) as stream:
            streamed = stream.get_final_completion().choices[0]

    names = check_calls(answer.message)
    assert names == check_calls(streamed.message) != []
    assert (answer.finish_reason, answer.message.content) == ("tool_calls", None)
    assert parallel or len(names) == 1


def test_a_named_function_is_called_once_whatever_the_question(stack: RunningStack) -> None:
    choice: Any = {"type": "function", "function": {"name": "GetTime"}}
    body = build(TWO_CITIES, tools=describe(), tool_choice=choice, max_tokens=150)
    with stack.openai() as client:
        answer = client.chat.completions.create(**body).choices[0]

    assert check_calls(answer.message) == ["GetTime"]


def test_a_call_that_the_model_begins_by_itself_is_strict(stack: RunningStack) -> None:
    body = build(ONE_CITY, max_tokens=150)
    with stack.openai() as client:
        free = client.chat.completions.create(**build(ONE_CITY, tools=[WEATHER])).choices[0]
        tools: Any = describe(strict=True)
        strict = client.chat.completions.create(**body, tools=tools).choices[0]
        answer = client.chat.completions.create(
            **build("What is the capital of France?"), tools=tools
        ).choices[0]

    assert read_cities(free.message) == ["Lima"]
    assert check_calls(strict.message) != []
    assert answer.message.content == "Paris."


def test_thinking_comes_before_a_structure_and_apart_from_it(stack: RunningStack) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "m", "schema": {"const": 42}}}
    with stack.openai() as client:
        for opens in (False, True):
            answer = client.chat.completions.create(
                **build(SUM, response_format=schema, max_tokens=200),
                extra_body={"chat_template_kwargs": {"open_thinking": opens}},
            ).choices[0]

            assert json.loads(answer.message.content or "") == 42
            assert "42" in getattr(answer.message, "reasoning", "")


def test_a_keyword_that_cannot_be_enforced_is_named(stack: RunningStack) -> None:
    parameters = {"type": "object", "properties": {"a": {"not": {"const": 1}}}}
    function = {"name": "f", "parameters": parameters}
    strict: Any = {"type": "function", "function": {**function, "strict": True}}
    tool: Any = {"type": "function", "function": function}
    with stack.openai() as client:
        with pytest.raises(openai.BadRequestError, match=r'Unimplemented keys: \["not"\]'):
            client.chat.completions.create(**build("Hi", tools=[strict]))
        loose = client.chat.completions.create(
            **build("Hi", tools=[tool], tool_choice="required", max_tokens=20)
        )

    assert loose.choices[0].message.tool_calls


BUDGET: dict[str, Any] = {"thinking_budget_tokens": 4}


def read_thinking(answer: Any) -> tuple[str, str]:
    """The thinking and the content of the first choice."""
    message = answer.choices[0].message
    return getattr(message, "reasoning", None) or "", message.content or ""


@pytest.mark.parametrize("opens", [False, True], ids=["the model opens", "opened"])
def test_the_thinking_ends_with_its_budget_and_the_answer_follows(
    stack: RunningStack, opens: bool
) -> None:
    extra = {**BUDGET, "chat_template_kwargs": {"open_thinking": opens}}
    with stack.openai() as client:
        free = client.chat.completions.create(**build(SUM))
        answer = client.chat.completions.create(**build(SUM, n=2), extra_body=extra)
        with client.chat.completions.stream(
            **build(SUM, tools=describe()), extra_body=extra
        ) as stream:
            streamed = stream.get_final_completion()
        none = client.chat.completions.create(
            **build(SUM), extra_body={**extra, "thinking_budget_tokens": 0}
        )

    thought, content = read_thinking(answer)
    assert read_thinking(free)[0].startswith(thought)
    assert 0 < len(thought) < len(read_thinking(free)[0])
    assert content
    assert answer.choices[1].message == answer.choices[0].message
    # An estimate: of a delta with thinking and text, see answer_reader.py.
    usage = answer.usage
    assert 0 < usage.completion_tokens_details.reasoning_tokens < usage.completion_tokens
    assert len(read_thinking(streamed)[0]) < len(read_thinking(free)[0])
    assert read_thinking(none)[0] == ""
    assert read_thinking(none)[1]


def test_thinking_leaves_tokens_for_a_structure_that_is_forced(stack: RunningStack) -> None:
    """The thinking alone has more tokens than the answer may have."""
    schema = {"type": "json_schema", "json_schema": {"name": "m", "schema": {"const": 42}}}
    with stack.openai() as client:
        answer = client.chat.completions.create(**build(SUM, response_format=schema, max_tokens=16))
        free = client.chat.completions.create(**build(SUM, max_tokens=16))

    assert (read_thinking(free)[1], free.choices[0].finish_reason) == ("", "length")
    assert json.loads(read_thinking(answer)[1]) == 42
    assert read_thinking(answer)[0]
