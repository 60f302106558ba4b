"""Every endpoint of the OpenAI dialect with the official client: both of its kinds, and streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from pydantic import BaseModel, Field

from tests.flows.stack import RunningStack
from tests.flows.test_tools import ONE_CITY, WEATHER, build, read_cities

FRANCE = "What is the capital of France?"
TEXT: dict[str, Any] = {"model": "tiny", "prompt": "The capital of", "temperature": 0}
EMBED: dict[str, Any] = {"model": "tiny", "input": ["Paris", "Rome"]}


class City(BaseModel):
    """A city."""

    name: str = Field(max_length=8)


class GetWeather(BaseModel):
    """Get the weather in a city"""  # noqa: D400  the model reads it

    city: str = Field(max_length=8)


@asynccontextmanager
async def open_client(stack: RunningStack) -> AsyncIterator[openai.AsyncOpenAI]:
    url = f"{stack.url}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key=stack.key, max_retries=0) as client:
        yield client


def ask_both(
    stack: RunningStack,
    ask: Callable[[openai.OpenAI], Any],
    ask_async: Callable[[openai.AsyncOpenAI], Coroutine[Any, Any, Any]],
) -> Any:
    """The answer of the synchronous client, which is that of the asynchronous one."""

    async def run() -> Any:
        async with open_client(stack) as client:
            return await ask_async(client)

    with stack.openai() as client:
        found = ask(client)
    assert asyncio.run(run()) == found
    return found


async def collect(chunks: Any, read: Callable[[Any], str]) -> str:
    return "".join([read(chunk) async for chunk in await chunks])


def read_delta(chunk: Any) -> str:
    return chunk.choices[0].delta.content or "" if chunk.choices else ""


def read_text(chunk: Any) -> str:
    return chunk.choices[0].text if chunk.choices else ""


def test_chats_whole_and_streamed(stack: RunningStack) -> None:
    body = build(FRANCE)
    whole = ask_both(
        stack,
        lambda client: client.chat.completions.create(**body).choices[0].message,
        lambda client: read_message(client.chat.completions.create(**body)),
    )
    streamed = ask_both(
        stack,
        lambda client: "".join(
            map(read_delta, client.chat.completions.create(**body, stream=True))
        ),
        lambda client: collect(client.chat.completions.create(**body, stream=True), read_delta),
    )

    assert whole.content == streamed == "Paris."


async def read_message(answer: Any) -> Any:
    return (await answer).choices[0].message


def test_the_parse_helpers_return_an_object_of_the_schema(stack: RunningStack) -> None:
    body = build(FRANCE, response_format=City, max_tokens=60)

    async def stream(client: openai.AsyncOpenAI) -> Any:
        async with client.chat.completions.stream(**body) as events:
            return (await events.get_final_completion()).choices[0].message.parsed

    def stream_sync(client: openai.OpenAI) -> Any:
        with client.chat.completions.stream(**body) as events:
            return events.get_final_completion().choices[0].message.parsed

    whole = ask_both(
        stack,
        lambda client: client.chat.completions.parse(**body).choices[0].message.parsed,
        lambda client: read_parsed(client.chat.completions.parse(**body)),
    )

    assert isinstance(whole, City)
    assert ask_both(stack, stream_sync, stream) == whole


async def read_parsed(answer: Any) -> Any:
    return (await answer).choices[0].message.parsed


def test_the_parse_helpers_read_the_arguments_of_a_strict_tool(stack: RunningStack) -> None:
    tool = openai.pydantic_function_tool(GetWeather, name="get_weather")
    body = build(ONE_CITY, tools=[tool], tool_choice="required", max_tokens=60)

    def read(answer: Any) -> Any:
        return answer.choices[0].message.tool_calls[0].function.parsed_arguments

    async def ask(client: openai.AsyncOpenAI) -> Any:
        return read(await client.chat.completions.parse(**body))

    found = ask_both(stack, lambda client: read(client.chat.completions.parse(**body)), ask)

    assert isinstance(found, GetWeather)


def test_text_completions_whole_and_streamed(stack: RunningStack) -> None:
    async def ask(client: openai.AsyncOpenAI) -> str:
        answer = await client.completions.create(**TEXT)
        return str(answer.choices[0].text)

    whole = ask_both(stack, lambda client: client.completions.create(**TEXT).choices[0].text, ask)
    streamed = ask_both(
        stack,
        lambda client: "".join(map(read_text, client.completions.create(**TEXT, stream=True))),
        lambda client: collect(client.completions.create(**TEXT, stream=True), read_text),
    )

    assert whole == streamed != ""


def test_models_and_embeddings(stack: RunningStack) -> None:
    async def list_models(client: openai.AsyncOpenAI) -> list[str]:
        return [model.id async for model in client.models.list()]

    async def retrieve(client: openai.AsyncOpenAI) -> str:
        return (await client.models.retrieve("tiny")).id

    async def embed(client: openai.AsyncOpenAI) -> list[list[float]]:
        return [item.embedding for item in (await client.embeddings.create(**EMBED)).data]

    names = ask_both(
        stack, lambda client: [model.id for model in client.models.list()], list_models
    )
    name = ask_both(stack, lambda client: client.models.retrieve("tiny").id, retrieve)
    vectors = ask_both(
        stack,
        lambda client: [item.embedding for item in client.embeddings.create(**EMBED).data],
        embed,
    )

    assert name in names
    assert len(vectors) == 2
    assert vectors[0] != vectors[1]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/chat/completions/input_tokens", build(FRANCE), "input_tokens"),
        ("/rerank", {"model": "tiny", "query": "a", "documents": ["b"]}, None),
    ],
)
def test_other_routes_by_the_clients_own_requests(
    stack: RunningStack, path: str, body: Any, field: str | None
) -> None:
    """`client.post` is for what the client has no method for; errors are of its classes."""
    with stack.openai() as client:
        if field is not None:
            assert client.post(path, body=body, cast_to=dict[str, Any])[field] > 0
            return
        with pytest.raises(openai.BadRequestError) as caught:  # the tiny model ranks nothing
            client.post(path, body=body, cast_to=dict[str, Any])
    assert caught.value.param == "model"


def test_every_answer_has_the_id_of_its_request(stack: RunningStack) -> None:
    with stack.openai() as client:
        raw = client.chat.completions.with_raw_response.create(**build(ONE_CITY, tools=[WEATHER]))
        with pytest.raises(openai.NotFoundError) as caught:
            client.models.retrieve("missing")

    assert read_cities(raw.parse().choices[0].message) == ["Lima"]
    assert raw.headers["x-request-id"]
    assert caught.value.request_id
