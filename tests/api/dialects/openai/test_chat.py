"""POST /v1/chat/completions over real HTTP: the shape of answers."""

from __future__ import annotations

import asyncio

import openai

from protos import engine_pb2
from tests.api.chat_helpers import BODY, PATH, QUESTION, openai_client, parse_data, stream_lines
from tests.api.conftest import Api
from tests.fakes.scripted_engine import delta, finished, started


async def test_a_chat_has_the_shape_of_openais_response(api: Api) -> None:
    async with api.client() as client:
        answer = (await client.post(PATH, json=BODY)).json()

    assert answer.pop("id").startswith("chatcmpl-")
    assert isinstance(answer.pop("created"), int)
    assert answer.pop("timings")["prompt_n"] == 4
    assert answer == {
        "object": "chat.completion",
        "model": "tiny",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Paris.", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 2,
            "total_tokens": 9,
            "prompt_tokens_details": {"cached_tokens": 3},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }


async def test_the_engine_gets_the_rendered_prompt_and_the_canonical_name(api: Api) -> None:
    async with api.client() as client:
        await client.post(PATH, json={**BODY, "temperature": 0, "max_tokens": 5})

    submit = api.engine.submits[0]
    assert submit.model == "tiny:latest"
    assert submit.principal.startswith("key_")
    assert submit.sampling == engine_pb2.Sampling(temperature=0)
    assert submit.stopping == engine_pb2.Stopping(max_tokens=5)
    assert submit.text == engine_pb2.PromptText(
        pieces=[
            engine_pb2.TextPiece(
                text="<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
                "<|im_start|>assistant\n"
            )
        ]
    )


async def test_a_stream_has_role_text_finish_usage_and_done(api: Api) -> None:
    async with api.client() as client:
        lines = await stream_lines(client, {**BODY, "stream_options": {"include_usage": True}})

    chunks = [parse_data(line) for line in lines[:-1]]
    assert lines[-1] == "data: [DONE]"
    assert [c["choices"][0]["delta"] for c in chunks[:-1]] == [
        {"role": "assistant", "content": ""},
        *(
            [{"content": "Par"}, {"content": "is."}]
            if len(chunks) == 5
            else [{"content": "Paris."}]
        ),
        {},
    ]
    assert [c["choices"][0]["finish_reason"] for c in chunks[:-1]][-1] == "stop"
    assert all(c["usage"] is None for c in chunks[:-1])
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] == 9
    assert {c["object"] for c in chunks} == {"chat.completion.chunk"}
    assert len({c["id"] for c in chunks}) == 1


async def test_the_last_chunk_has_the_timings_when_usage_is_not_requested(api: Api) -> None:
    async with api.client() as client:
        lines = await stream_lines(client, BODY)

    assert parse_data(lines[-2])["timings"]["predicted_n"] == 2
    assert "usage" not in parse_data(lines[-2])


async def test_the_official_async_client_streams(api: Api) -> None:
    async with openai_client(api) as client:
        stream = await client.chat.completions.create(
            model="tiny",
            messages=QUESTION,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]

    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "Paris."
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens_details is not None
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens == 3


async def test_the_official_sync_client_works_with_and_without_streaming(api: Api) -> None:
    def call() -> tuple[str | None, str]:
        with openai.OpenAI(base_url=f"{api.url}/v1", api_key=api.user_key) as client:
            complete = client.chat.completions.create(model="tiny", messages=QUESTION)
            stream = client.chat.completions.create(model="tiny", messages=QUESTION, stream=True)
            streamed = "".join(c.choices[0].delta.content or "" for c in stream)
            return complete.choices[0].message.content, streamed

    assert await asyncio.to_thread(call) == ("Paris.", "Paris.")


async def test_the_texts_of_several_answers_are_not_mixed(api: Api) -> None:
    api.engine.scripts["*"] = [
        started(),
        delta("a", 0),
        delta("x", 1),
        delta("b", 0),
        finished(index=1, tokens=1),
        finished("LENGTH", index=0),
    ]
    async with openai_client(api) as client:
        answer = await client.chat.completions.create(model="tiny", messages=QUESTION, n=2)

    assert [(c.message.content, c.finish_reason) for c in answer.choices] == [
        ("ab", "length"),
        ("x", "stop"),
    ]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 3)


async def test_logprobs_come_with_their_bytes(api: Api) -> None:
    top = engine_pb2.TokenLogprob(token=5, text="é".encode()[:1], logprob=float("-inf"))
    token = engine_pb2.TokenLogprob(token=4, text=b"Par", logprob=-0.5, top=[top])
    api.engine.scripts["*"] = [delta("Par", logprobs=[token]), finished()]
    async with openai_client(api) as client:
        answer = await client.chat.completions.create(
            model="tiny", messages=QUESTION, logprobs=True, top_logprobs=1
        )
        stream = await client.chat.completions.create(
            model="tiny", messages=QUESTION, logprobs=True, top_logprobs=1, stream=True
        )
        chunks = [chunk async for chunk in stream]

    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.content is not None
    entry = answer.choices[0].logprobs.content[0]
    assert (entry.token, entry.logprob, entry.bytes) == ("Par", -0.5, [80, 97, 114])
    assert (entry.top_logprobs[0].token, entry.top_logprobs[0].logprob) == ("�", -9999.0)
    streamed = [c.choices[0].logprobs for c in chunks if c.choices[0].logprobs]
    assert [s.model_dump() for s in streamed] == [answer.choices[0].logprobs.model_dump()]
    assert api.engine.submits[0].top_logprobs == 1
