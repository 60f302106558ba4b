"""What a text or a chat is for a model, without an answer, over real HTTP."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from protos import engine_pb2
from services.shared.errors import EngineUnavailable
from services.shared.limits import MAX_DETOKENIZED_TOKENS
from tests.api.conftest import Api, make_description, make_manifest, put_model


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
            principal=api.engine.calls[0].principal,
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


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {"content": "a"}),
        ("/detokenize", {"tokens": [5]}),
        ("/v1/chat/completions/input_tokens", {"messages": [{"role": "user", "content": "a"}]}),
    ],
    ids=["tokenize", "detokenize", "count"],
)
async def test_texts_take_the_turn_of_their_key(api: Api, path: str, body: dict[str, Any]) -> None:
    """Else long texts of one key would delay those of all others."""
    await post(api, path, **body)
    await post(api, "/v1/chat/completions", messages=[{"role": "user", "content": "a"}])

    assert api.engine.calls[0].principal == api.engine.submits[0].principal
    assert api.engine.calls[0].principal


async def test_an_engine_that_is_away_is_a_503(api: Api) -> None:
    api.engine.unary_error = EngineUnavailable("the engine is shutting down")
    answer = await post(api, "/tokenize", content="a")

    assert answer.status_code == 503


async def test_tokens_become_text_under_the_names_of_both_services(api: Api) -> None:
    answer = await post(api, "/detokenize", tokens=[5, 0, 7])

    assert answer.json() == {"content": "5 0 7", "prompt": "5 0 7"}
    (call,) = api.engine.calls
    assert (call.model, call.ids) == ("tiny:latest", [5, 0, 7])


@pytest.mark.parametrize(
    "tokens",
    [None, "5", [-1], [2**31], [1.5], [True], [1] * (MAX_DETOKENIZED_TOKENS + 1)],
    ids=["absent", "text", "negative", "large", "fraction", "truth", "many"],
)
async def test_what_are_no_tokens_is_a_400_that_names_them(api: Api, tokens: Any) -> None:
    answer = await post(api, "/detokenize", tokens=tokens)

    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith("tokens")
    assert not api.engine.calls


CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}


async def test_the_prompt_of_a_chat_is_rendered_and_nothing_is_computed(api: Api) -> None:
    answer = await post(api, "/apply-template", **CHAT)

    assert answer.json() == {"prompt": "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"}
    assert not api.engine.calls
    assert not api.engine.submits


async def test_a_prompt_has_no_bos_where_a_completion_adds_it(api: Api) -> None:
    description = make_description(bos_token="<s>", add_bos=True)
    put_model(api.data_dir / "models", make_manifest("bos:latest", description=description))
    prompt = (await post(api, "/apply-template", **CHAT, model="bos")).json()["prompt"]
    await post(api, "/v1/chat/completions", **CHAT, model="bos")
    sent = api.engine.submits[0].text

    assert "".join(piece.text for piece in sent.pieces) == f"<s>{prompt}"
    assert not sent.add_special


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"model": "none"}, None),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"temperature": -1}, "temperature"),
        ({"mirostat": 2}, "mirostat"),
    ],
    ids=["empty", "no model", "no tools", "range", "refused"],
)
async def test_a_prompt_is_checked_as_a_chat_is(
    api: Api, change: dict[str, Any], param: str | None
) -> None:
    answers = [
        await post(api, path, **{**CHAT, **change})
        for path in ("/apply-template", "/v1/chat/completions")
    ]

    assert answers[0].status_code in (400, 404)
    assert answers[0].json()["error"] == answers[1].json()["error"]
    assert answers[0].json()["error"]["param"] == param
