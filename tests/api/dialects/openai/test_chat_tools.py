"""Tool calls through the official client, streamed and whole."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from tests.api.chat_helpers import PATH, QUESTION, openai_client, parse_data, stream_lines
from tests.api.conftest import Api, make_description, make_manifest, put_model
from tests.api.prompts.rendering import HERE
from tests.fakes.scripted_engine import delta, finished, started

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
ASK: dict[str, Any] = {"model": "caller", "messages": QUESTION, "tools": [WEATHER]}
PARIS = '{"city": "Paris"}'


def call(arguments: str = PARIS, name: str = "get_weather") -> list[str]:
    """The text of a call, in deltas of a few characters."""
    text = f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'
    return [text[start : start + 7] for start in range(0, len(text), 7)]


@pytest.fixture(autouse=True)
def caller(api: Api) -> None:
    template = (HERE / "qwen_like.jinja").read_text()
    description = make_description(chat_template=template)
    put_model(api.data_dir / "models", make_manifest("caller:latest", description=description))
    script(api, *call())


def script(api: Api, *texts: str, reason: str = "STOP") -> None:
    api.engine.scripts["*"] = [
        started(),
        *map(delta, texts),
        finished(reason, tokens=len(texts)),
    ]


async def ask(api: Api, **changes: Any) -> ChatCompletion:
    async with openai_client(api) as client:
        answer: ChatCompletion = await client.chat.completions.create(**{**ASK, **changes})
        return answer


async def stream(api: Api, **changes: Any) -> list[ChatCompletionChunk]:
    async with openai_client(api) as client:
        chunks = await client.chat.completions.create(**{**ASK, **changes}, stream=True)
        return [chunk async for chunk in chunks]


def get_only_call(message: Any) -> Any:
    (found,) = message.tool_calls
    return found


async def test_a_call_has_the_shape_of_openais_response(api: Api) -> None:
    async with api.client() as client:
        answer = (await client.post(PATH, json=ASK)).json()

    (choice,) = answer["choices"]
    (found,) = choice["message"].pop("tool_calls")
    assert found.pop("id").startswith("call_")
    assert found == {
        "type": "function",
        "function": {"name": "get_weather", "arguments": PARIS},
    }
    assert choice == {
        "index": 0,
        "message": {"role": "assistant", "content": None, "refusal": None},
        "logprobs": None,
        "finish_reason": "tool_calls",
    }


async def test_a_streamed_call_has_its_name_first_and_then_its_arguments(api: Api) -> None:
    async with api.client() as client:
        lines = await stream_lines(client, ASK)

    choices = [parse_data(line)["choices"][0] for line in lines[:-1]]
    deltas = [choice["delta"] for choice in choices]
    assert deltas[0] == {"role": "assistant", "content": ""}
    (first,) = deltas[1].pop("tool_calls")
    assert first.pop("id").startswith("call_")
    assert first == {
        "index": 0,
        "type": "function",
        "function": {"name": "get_weather", "arguments": ""},
    }
    fragments = [d["tool_calls"][0] for d in deltas[2:-1]]
    assert {(f["index"], *f) for f in fragments} == {(0, "index", "function")}
    assert "".join(f["function"]["arguments"] for f in fragments) == PARIS
    assert deltas[-1] == {}
    assert [c["finish_reason"] for c in choices[-2:]] == [None, "tool_calls"]


async def test_text_before_two_calls_is_content(api: Api) -> None:
    script(api, "I look.\n", *call(), "\n", *call('{"city": "Rome"}'))
    message = (await ask(api)).choices[0].message

    assert message.content == "I look."
    arguments = [c.function.arguments for c in message.tool_calls or () if c.type == "function"]
    assert [json.loads(a) for a in arguments] == [{"city": "Paris"}, {"city": "Rome"}]
    assert len({c.id for c in message.tool_calls or ()}) == 2


async def test_what_is_no_call_is_content(api: Api) -> None:
    script(api, "<tool_call> is a tag.")
    choice = (await ask(api)).choices[0]

    assert (choice.message.content, choice.message.tool_calls) == ("<tool_call> is a tag.", None)
    assert choice.finish_reason == "stop"


async def test_a_call_that_was_cut_off_is_reported_as_it_is(api: Api) -> None:
    script(api, '<tool_call>\n{"name": "get_weather", "arguments": {"ci', reason="LENGTH")
    choice = (await ask(api)).choices[0]

    found = get_only_call(choice.message)
    assert (found.function.name, found.function.arguments) == ("get_weather", '{"ci')
    assert choice.finish_reason == "length"


async def test_one_call_ends_the_answer_and_the_engine(api: Api) -> None:
    endless = asyncio.Event()
    api.engine.scripts["*"] = [started(), *map(delta, [*call(), *call()]), endless]
    answer = await ask(api, parallel_tool_calls=False)
    await api.engine.wait_until(lambda: api.engine.cancels)

    assert len(answer.choices[0].message.tool_calls or ()) == 1
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 7
    assert 0 < answer.usage.completion_tokens <= len(call())


async def test_one_call_ends_the_stream_with_its_usage(api: Api) -> None:
    api.engine.scripts["*"] = [started(), *map(delta, [*call(), *call()]), asyncio.Event()]
    chunks = await stream(api, parallel_tool_calls=False, stream_options={"include_usage": True})

    assert chunks[-2].choices[0].finish_reason == "tool_calls"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens == 7


@pytest.mark.parametrize("changes", [{"tool_choice": "none"}, {"tools": None}], ids=str)
async def test_without_tools_nothing_is_a_call(api: Api, changes: dict[str, Any]) -> None:
    choice = (await ask(api, **changes)).choices[0]

    assert choice.message.content == "".join(call())
    assert choice.finish_reason == "stop"


async def test_a_structured_output_is_no_call(api: Api) -> None:
    choice = (await ask(api, response_format={"type": "json_object"})).choices[0]

    assert choice.message.content == "".join(call())


async def test_the_old_form_has_one_function_call(api: Api) -> None:
    script(api, *call(), *call())
    old = {"tools": None, "functions": [WEATHER["function"]]}
    choice = (await ask(api, **old)).choices[0]
    deltas = [chunk.choices[0] for chunk in await stream(api, **old)]

    assert choice.finish_reason == deltas[-1].finish_reason == "function_call"
    assert choice.message.tool_calls is None
    assert choice.message.function_call is not None
    assert choice.message.function_call.arguments == PARIS
    calls = [d.delta.function_call for d in deltas if d.delta.function_call]
    assert calls[0].name == "get_weather"
    assert "".join(c.arguments or "" for c in calls) == PARIS


async def test_the_agent_loop_renders_the_call_and_its_result(api: Api) -> None:
    async with openai_client(api) as client:
        async with client.chat.completions.stream(**ASK) as streamed:
            message = (await streamed.get_final_completion()).choices[0].message
        script(api, "Sunny.")
        found = get_only_call(message)
        messages = [
            *QUESTION,
            message.model_dump(exclude_none=True, exclude={"parsed", "tool_calls"})
            | {"tool_calls": [found.model_dump(include={"id", "type", "function"})]},
            {"role": "tool", "tool_call_id": found.id, "content": '{"sky": "sunny"}'},
        ]
        answer = await client.chat.completions.create(**{**ASK, "messages": messages})

    assert answer.choices[0].message.content == "Sunny."
    prompt = api.engine.submits[-1].text.pieces[-1].text
    assert '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}' in prompt
    assert '<tool_response>\n{"sky": "sunny"}\n</tool_response>' in prompt


class GetWeather(BaseModel):
    """Get the weather in a city."""

    city: str


async def test_the_parse_helper_of_the_sync_client_reads_the_arguments(api: Api) -> None:
    script(api, *call(name="GetWeather"))

    def parse() -> object:
        with openai.OpenAI(base_url=f"{api.url}/v1", api_key=api.user_key) as client:
            answer = client.chat.completions.parse(
                model="caller", messages=QUESTION, tools=[openai.pydantic_function_tool(GetWeather)]
            )
        return get_only_call(answer.choices[0].message).function.parsed_arguments

    assert await asyncio.to_thread(parse) == GetWeather(city="Paris")


async def test_thinking_comes_before_a_call(api: Api) -> None:
    script(api, "<think>\nI need it.\n</think>\n\n", *call())
    choice = (await ask(api)).choices[0]

    assert getattr(choice.message, "reasoning", None) == "I need it."
    assert choice.message.content is None
    assert choice.finish_reason == "tool_calls"
