"""POST /v1/completions over real HTTP."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from protos import engine_pb2
from services.shared.errors import ContextLengthExceeded, InvalidRequest
from tests.api.chat_helpers import openai_client
from tests.api.conftest import Api
from tests.fakes.scripted_engine import delta, failed, finished, started

PATH = "/v1/completions"


async def complete(api: Api, **body: Any) -> Any:
    async with api.client() as client:
        answer = await client.post(PATH, json={"model": "tiny", **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_completion_has_the_shape_of_openais_response(api: Api) -> None:
    answer = await complete(api, prompt="Par")

    assert answer["object"] == "text_completion"
    assert answer["choices"] == [
        {"index": 0, "text": "Paris.", "logprobs": None, "finish_reason": "stop"}
    ]
    assert answer["usage"]["completion_tokens"] == 2


async def test_a_text_prompt_is_sent_unchanged_and_the_default_is_sixteen_tokens(api: Api) -> None:
    await complete(api, prompt="<|im_start|>raw")

    submit = api.engine.submits[0]
    assert submit.text == engine_pb2.PromptText(
        pieces=[engine_pb2.TextPiece(text="<|im_start|>raw")], add_special=True
    )
    assert submit.stopping.max_tokens == 16


async def test_token_ids_are_sent_unchanged(api: Api) -> None:
    await complete(api, prompt=[1, 2, 3], max_tokens=0)

    assert list(api.engine.submits[0].tokens.ids) == [1, 2, 3]
    assert api.engine.submits[0].stopping.HasField("max_tokens")


async def test_the_answers_of_several_prompts_are_numbered_consecutively(api: Api) -> None:
    api.engine.scripts["*"] = [
        started(),
        delta("b", 1),
        delta("a", 0),
        finished(index=0),
        finished(index=1),
    ]
    answer = await complete(api, prompt=["one ", "two "], n=2, echo=True)

    assert [c["text"] for c in answer["choices"]] == ["one a", "one b", "two a", "two b"]
    assert [c["index"] for c in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"]["prompt_tokens"] == 14
    assert answer["usage"]["completion_tokens"] == 8


async def test_the_official_client_streams_with_echo(api: Api) -> None:
    async with openai.AsyncOpenAI(base_url=f"{api.url}/v1", api_key=api.user_key) as client:
        stream = await client.completions.create(
            model="tiny",
            prompt="The city is ",
            echo=True,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]

    assert "".join(c.choices[0].text for c in chunks if c.choices) == "The city is Paris."
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 2


async def test_echo_with_logprobs_includes_the_prompt_whose_first_token_has_none(api: Api) -> None:
    prompt = engine_pb2.TokenLogprob(token=2, text=b" b", logprob=-2.0)
    answered = engine_pb2.TokenLogprob(token=3, text=b" c", logprob=-1.0, top=[prompt])
    api.engine.scripts["*"] = [
        delta(" c", logprobs=[answered]),
        finished(tokens=1, prompt_logprobs=[prompt]),
    ]
    answer = await complete(api, prompt="a b", echo=True, logprobs=1)

    assert api.engine.submits[0].prompt_logprobs
    assert answer["choices"][0]["text"] == "a b c"
    assert answer["choices"][0]["logprobs"] == {
        "tokens": ["a", " b", " c"],
        "token_logprobs": [None, -2.0, -1.0],
        "top_logprobs": [None, {}, {" b": -2.0}],
        "text_offset": [0, 1, 3],
    }


@pytest.mark.parametrize("stream", [False, True])
async def test_the_echo_of_token_ids_is_their_text_from_the_first(api: Api, stream: bool) -> None:
    async with openai_client(api) as client:
        answer: Any = await client.completions.create(
            model="tiny", prompt=[[5, 7], [9]], echo=True, stream=stream
        )
        choices = (
            [choice async for chunk in answer for choice in chunk.choices]
            if stream
            else answer.choices
        )

    texts = ["".join(c.text for c in choices if c.index == index) for index in (0, 1)]
    assert texts == ["5 7Paris.", "9Paris."]
    assert not api.engine.submits[0].prompt_logprobs


async def test_the_echo_of_token_ids_has_logprobs_from_the_first(api: Api) -> None:
    tail = engine_pb2.TokenLogprob(token=7, text=b" 7", logprob=-2.0)
    api.engine.scripts["*"] = [finished(tokens=0, prompt_logprobs=[tail])]
    answer = await complete(api, prompt=[5, 7], echo=True, logprobs=0, max_tokens=0)

    assert answer["choices"][0]["text"] == "5 7"
    assert answer["choices"][0]["logprobs"]["tokens"] == ["5", " 7"]
    assert answer["choices"][0]["logprobs"]["text_offset"] == [0, 1]


async def test_token_ids_without_a_text_are_an_error_of_the_prompt(api: Api) -> None:
    api.engine.unary_error = InvalidRequest("there is no token 9", param="tokens")
    async with api.client() as client:
        answer = await client.post(PATH, json={"model": "tiny", "prompt": [9], "echo": True})

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "prompt")
    assert not api.engine.submits


async def test_streamed_logprobs_continue_the_text_offsets(api: Api) -> None:
    token = engine_pb2.TokenLogprob(token=2, text=b" b", logprob=-2.0)
    api.engine.scripts["*"] = [
        delta(" b", logprobs=[token]),
        delta(" b", logprobs=[token]),
        finished(),
    ]
    async with api.client() as client:
        body = {"model": "tiny", "prompt": "a", "logprobs": 0, "stream": True}
        text = (await client.post(PATH, json=body)).text

    chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    found = [c["choices"][0]["logprobs"] for c in chunks if c["choices"][0]["logprobs"]]
    assert [offset for entry in found for offset in entry["text_offset"]] == [0, 2]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, None),
        ({"prompt": [[1, -2]]}, "prompt[0][1]"),
        ({"prompt": [1, 2, -3]}, "prompt[2]"),
        ({"prompt": [1, True]}, "prompt[1]"),
        ({"prompt": [["a"], [True]]}, "prompt[0][0]"),
        ({"prompt": [[7], [True]]}, "prompt[1][0]"),
        ({"prompt": "a", "stop_token_ids": [True]}, "stop_token_ids[0]"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({}, "prompt"),
        ({"prompt": ["a", [1]], "suffix": "b"}, None),
        ({"prompt": "a", "suffix": "b", "echo": True, "logprobs": 1}, None),
        ({"prompt": "a", "thinking_budget_tokens": 1}, "thinking_budget_tokens"),
        ({"prompt": "a", "best_of": 1, "n": 2}, None),
        ({"prompt": "a", "best_of": 65}, "best_of"),
        ({"prompt": "a", "best_of": 3, "n": 2, "stream": True}, None),
        ({"prompt": "a", "logprobs": 21}, "logprobs"),
        ({"prompt": "a", "echo": True, "logprobs": 1, "stream": True}, None),
    ],
    ids=str,
)
async def test_an_invalid_body_is_400_and_names_the_field(
    api: Api, body: dict[str, Any], param: str | None
) -> None:
    async with api.client() as client:
        answer = await client.post(PATH, json={"model": "tiny", **body})

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


async def test_a_prompt_that_is_too_long_is_an_error_of_the_prompt(api: Api) -> None:
    api.engine.scripts["*"] = [failed(ContextLengthExceeded("too long"))]
    async with api.client() as client:
        answer = await client.post(PATH, json={"model": "tiny", "prompt": "hi"})

    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "context_length_exceeded")
    assert error["param"] == "prompt"


def script_answers(api: Api, *logprobs: tuple[float, ...]) -> None:
    """One answer for each tuple, with so likely tokens; its text is its number in their place."""
    events = []
    for index, numbers in enumerate(logprobs):
        for number in numbers:
            token = engine_pb2.TokenLogprob(token=2, text=b"x", logprob=number)
            events.append(delta(str(index), index, logprobs=[token]))
        events.append(finished(index=index, tokens=len(numbers)))
    api.engine.scripts["*"] = [started(), *events]


@pytest.mark.parametrize("wants_logprobs", [False, True])
async def test_the_answers_with_the_likeliest_tokens_are_returned_and_all_tokens_count(
    api: Api, wants_logprobs: bool
) -> None:
    """The likeliest in all is the shortest, which is not the likeliest for each of its tokens."""
    script_answers(api, (-3.0,), (-1.0, -1.0, -2.0), (), (-2.0, -2.5))
    options: Any = {"logprobs": 0} if wants_logprobs else {}
    async with openai_client(api) as client:
        answer = await client.completions.create(
            model="tiny", prompt="a", n=2, best_of=4, echo=True, **options
        )

    assert [(choice.index, choice.text) for choice in answer.choices] == [(0, "a111"), (1, "a33")]
    assert [choice.logprobs is not None for choice in answer.choices] == [wants_logprobs] * 2
    assert answer.usage is not None
    assert (answer.usage.completion_tokens, answer.usage.prompt_tokens) == (6, 7)
    submit = api.engine.submits[0]
    assert (submit.n, submit.HasField("top_logprobs"), submit.top_logprobs) == (4, True, 0)


async def test_every_prompt_has_its_own_best_answers(api: Api) -> None:
    script_answers(api, (-3.0,), (-1.0,))
    answer = await complete(api, prompt=["a", "b"], best_of=2)

    assert [(c["index"], c["text"]) for c in answer["choices"]] == [(0, "1"), (1, "1")]


async def test_as_many_answers_as_are_written_need_no_ranking(api: Api) -> None:
    script_answers(api, (-3.0,), (-1.0,))
    answer = await complete(api, prompt="a", n=2, best_of=2)

    assert [choice["text"] for choice in answer["choices"]] == ["0", "1"]
    assert not api.engine.submits[0].HasField("top_logprobs")


async def test_a_suffix_is_what_comes_after_the_answer_to_each_prompt(api: Api) -> None:
    async with openai_client(api) as client:
        answer = await client.completions.create(
            model="tiny", prompt=["a", "b"], suffix="z", echo=True
        )
        await client.completions.create(model="tiny", prompt="a", suffix="")

    infills = [(submit.infill.prefix, submit.infill.suffix) for submit in api.engine.submits[:2]]
    assert infills == [("a", "z"), ("b", "z")]
    assert [choice.text for choice in answer.choices] == ["aParis.", "bParis."]
    assert api.engine.submits[2].WhichOneof("prompt") == "text"


async def test_a_model_that_fills_in_nothing_is_an_error_of_the_suffix(api: Api) -> None:
    api.engine.scripts["*"] = [failed(InvalidRequest("this model cannot", param="suffix"))]
    async with api.client() as client:
        body = {"model": "tiny", "prompt": "a", "suffix": "b", "stream": True}
        answer = await client.post(PATH, json=body)

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "suffix")
