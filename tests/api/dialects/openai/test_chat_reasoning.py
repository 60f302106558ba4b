"""Thinking in chat completions: apart from the content, in both of its names."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

from protos import engine_pb2
from tests.api.chat_helpers import BODY, PATH, QUESTION, openai_client, parse_data, stream_lines
from tests.api.conftest import TEMPLATE, Api, make_description, make_manifest, put_model
from tests.fakes.scripted_engine import delta, finished, started

# As Qwen3's: thinking is on unless it is switched off, and earlier thinking is not shown.
THINKING_TEMPLATE = (
    TEMPLATE.replace("m.content", "m.content.split('</think>')[-1]")
    + "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
)
OPENING_TEMPLATE = TEMPLATE + "<think>"
THOUGHT = ("<think>", "\nHm", ".\n", "</think>", "\n\n", "Par", "is.")
ASK: dict[str, Any] = {**BODY, "model": "thinker"}


@pytest.fixture(autouse=True)
def thinker(api: Api) -> None:
    for name, template in (("thinker", THINKING_TEMPLATE), ("opener", OPENING_TEMPLATE)):
        manifest = make_manifest(
            f"{name}:latest", description=make_description(chat_template=template)
        )
        put_model(api.data_dir / "models", manifest)
    script(api, *THOUGHT)


def script(api: Api, *texts: str, reason: str = "STOP") -> None:
    end = finished(reason, tokens=len(texts))
    api.engine.scripts["*"] = [started(), *map(delta, texts), end]


async def test_the_thinking_is_apart_from_the_content(api: Api) -> None:
    async with api.client() as client:
        answer = (await client.post(PATH, json=ASK)).json()

    assert answer["choices"][0]["message"] == {
        "role": "assistant",
        "content": "Paris.",
        "refusal": None,
        "reasoning_content": "Hm.",
        "reasoning": "Hm.",
    }
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == 7
    assert answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": 3}


async def test_the_thinking_is_streamed_before_the_content(api: Api) -> None:
    async with api.client() as client:
        lines = await stream_lines(client, {**ASK, "stream_options": {"include_usage": True}})

    chunks = [parse_data(line) for line in lines[:-1]]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert deltas[0] == {"role": "assistant", "content": ""}
    thought = [d for d in deltas if "reasoning_content" in d]
    assert "".join(d["reasoning_content"] for d in thought) == "Hm."
    assert [d["reasoning"] for d in thought] == [d["reasoning_content"] for d in thought]
    rest = deltas[1 + len(thought) :]
    assert "".join(d.get("content", "") for d in rest) == "Paris."
    assert rest[-1] == {}
    assert chunks[-1]["usage"]["completion_tokens_details"] == {"reasoning_tokens": 3}


async def test_no_comment_is_sent_for_text_that_is_held_back(api: Api) -> None:
    async with api.client() as client:
        lines = await stream_lines(client, ASK)

    assert [line for line in lines if not line.startswith("data: ")] == []


async def test_the_official_clients_read_it(api: Api) -> None:
    def call() -> tuple[object, str]:
        with openai.OpenAI(base_url=f"{api.url}/v1", api_key=api.user_key) as client:
            whole = client.chat.completions.create(model="thinker", messages=QUESTION)
            stream = client.chat.completions.create(model="thinker", messages=QUESTION, stream=True)
            deltas = [chunk.choices[0].delta for chunk in stream]
        message = whole.choices[0].message
        thought = "".join(getattr(d, "reasoning_content", "") for d in deltas)
        text = "".join(d.content or "" for d in deltas)
        return (getattr(message, "reasoning_content", None), message.content), f"{thought}|{text}"

    assert await asyncio.to_thread(call) == (("Hm.", "Paris."), "Hm.|Paris.")

    async with (
        openai_client(api) as client,
        client.chat.completions.stream(model="thinker", messages=QUESTION) as stream,
    ):
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == "Paris."


@pytest.mark.parametrize(
    "fields",
    [{"reasoning": {"exclude": True, "effort": "high"}}, {"include_reasoning": False}],
    ids=["OpenRouter", "vLLM"],
)
async def test_thinking_that_is_excluded_is_counted_and_not_shown(
    api: Api, fields: dict[str, Any]
) -> None:
    usage = {"stream_options": {"include_usage": True}}
    async with api.client() as client:
        answer = (await client.post(PATH, json={**ASK, **fields})).json()
        lines = await stream_lines(client, {**ASK, **fields, **usage})

    message = {"role": "assistant", "content": "Paris.", "refusal": None}
    assert answer["choices"][0]["message"] == message
    assert answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": 3}
    chunks = [parse_data(line) for line in lines[:-1]]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert {key for delta in deltas for key in delta} == {"role", "content"}
    assert "".join(delta.get("content", "") for delta in deltas) == "Paris."
    assert chunks[-1]["usage"]["completion_tokens_details"] == {"reasoning_tokens": 3}


@pytest.mark.parametrize(
    ("texts", "reason", "content", "thought"),
    [
        (("<think>", "Hm"), "LENGTH", "", "Hm"),
        (("<think>\n\n</think>\n\nParis.",), "STOP", "Paris.", None),
        (("Pa", "ris."), "STOP", "Paris.", None),
        (("The tag <think>.",), "STOP", "The tag <think>.", None),
    ],
)
async def test_thinking_that_is_unusual(
    api: Api, texts: tuple[str, ...], reason: str, content: str, thought: str | None
) -> None:
    script(api, *texts, reason=reason)
    async with api.client() as client:
        choice = (await client.post(PATH, json=ASK)).json()["choices"][0]

    assert (choice["message"]["content"], choice["finish_reason"]) == (content, reason.lower())
    assert choice["message"].get("reasoning_content") == thought


async def test_a_template_may_open_the_thinking(api: Api) -> None:
    script(api, "Hm.", "</think>", "Paris.")
    async with api.client() as client:
        answer = (await client.post(PATH, json={**BODY, "model": "opener"})).json()

    assert api.engine.submits[0].text.pieces[-1].text.endswith("assistant\n<think>")
    message = answer["choices"][0]["message"]
    assert (message["content"], message["reasoning"]) == ("Paris.", "Hm.")


async def test_an_answer_that_is_continued_after_its_thinking_has_none(api: Api) -> None:
    script(api, "is.")
    messages = [*QUESTION, {"role": "assistant", "content": "Par"}]
    body = {**BODY, "model": "thinker", "messages": messages, "continue_final_message": True}
    async with api.client() as client:
        answer = (await client.post(PATH, json=body)).json()

    message = answer["choices"][0]["message"]
    assert (message["content"], message.get("reasoning")) == ("is.", None)


@pytest.mark.parametrize(
    "fields",
    [
        {"enable_thinking": False},
        {"reasoning_effort": "none"},
        {"chat_template_kwargs": {"enable_thinking": False}},
    ],
    ids=str,
)
async def test_thinking_is_switched_off(api: Api, fields: dict[str, Any]) -> None:
    script(api, "Paris.")
    async with api.client() as client:
        await client.post(PATH, json={**ASK, **fields})

    prompt = api.engine.submits[0].text.pieces[-1].text
    assert prompt.endswith("assistant\n<think>\n\n</think>\n\n")


async def test_thinking_that_is_not_separated_stays_as_it_was_written(api: Api) -> None:
    async with api.client() as client:
        answer = (await client.post(PATH, json={**ASK, "reasoning_format": "none"})).json()

    message = answer["choices"][0]["message"]
    assert message == {"role": "assistant", "content": "".join(THOUGHT), "refusal": None}


async def test_log_probabilities_are_those_of_the_content(api: Api) -> None:
    tokens = [
        delta(text, logprobs=[engine_pb2.TokenLogprob(text=text.encode(), logprob=-1.0)])
        for text in ("<think>", "Hm", "</think>a", "b")
    ]
    api.engine.scripts["*"] = [*tokens, finished()]
    async with api.client() as client:
        answer = (await client.post(PATH, json={**ASK, "logprobs": True})).json()

    content = answer["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in content] == ["</think>a", "b"]


async def test_several_answers_think_apart(api: Api) -> None:
    api.engine.scripts["*"] = [
        *(delta("<think>a", 0), delta("<think>b", 1), delta("</think>x", 1)),
        *(delta("</think>y", 0), finished(index=1), finished(index=0)),
    ]
    async with api.client() as client:
        answer = (await client.post(PATH, json={**ASK, "n": 2})).json()

    messages = [choice["message"] for choice in answer["choices"]]
    assert [(m["reasoning"], m["content"]) for m in messages] == [("a", "y"), ("b", "x")]
