"""POST /tokenize and /v1/chat/completions/input_tokens over real HTTP."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from protos import engine_pb2
from services.shared.errors import EngineUnavailable
from tests.api.conftest import Api


async def post(api: Api, path: str, **body: Any) -> httpx.Response:
    async with api.client() as client:
        return await client.post(path, json={"model": "tiny", **body})


@pytest.mark.parametrize(
    ("body", "literal", "add_special"),
    [
        ({"content": "a <b>"}, False, False),
        ({"content": "a <b>", "add_special": True}, False, True),
        ({"content": "a <b>", "parse_special": False}, True, False),
        ({"prompt": "a <b>"}, False, True),
        ({"prompt": "a <b>", "add_special_tokens": False}, False, False),
    ],
    ids=["llama-server", "with special", "literal", "vllm", "vllm without"],
)
async def test_a_text_is_tokenized_as_each_service_does(
    api: Api, body: dict[str, Any], literal: bool, add_special: bool
) -> None:
    answer = await post(api, "/tokenize", **body)

    assert answer.json() == {"tokens": [1], "count": 1}
    assert api.engine.calls == [
        engine_pb2.TokenizeRequest(
            model="tiny:latest",
            text=engine_pb2.PromptText(
                pieces=[engine_pb2.TextPiece(text="a <b>", literal=literal)],
                add_special=add_special,
            ),
        )
    ]


@pytest.mark.parametrize(
    "body",
    [{}, {"content": "a", "prompt": "a"}, {"content": "a", "with_pieces": True},
     {"content": "a" * ((8 << 20) + 1)}],
    ids=["nothing", "both", "pieces", "long"],
)  # fmt: skip
async def test_what_cannot_be_tokenized_is_a_400(api: Api, body: dict[str, Any]) -> None:
    answer = await post(api, "/tokenize", **body)

    assert answer.status_code == 400
    assert not api.engine.calls


async def test_the_tokens_of_a_chat_are_those_of_its_rendered_prompt(api: Api) -> None:
    messages = [{"role": "user", "content": "hello"}]
    counted = await post(api, "/v1/chat/completions/input_tokens", messages=messages)
    await post(api, "/v1/chat/completions", messages=messages)

    assert counted.json() == {"object": "response.input_tokens", "input_tokens": 1}
    assert api.engine.calls[0].text == api.engine.submits[0].text


async def test_an_engine_that_is_away_is_a_503(api: Api) -> None:
    api.engine.unary_error = EngineUnavailable("the engine is shutting down")
    answer = await post(api, "/tokenize", content="a")

    assert answer.status_code == 503
