"""Chat requests that are invalid or unusual."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.api.chat_helpers import BODY, PATH, QUESTION, openai_client
from tests.api.conftest import Api

CALL = "function_call"
TOOLS = [{"type": "function", "function": {"name": "f"}}]
FUNCTIONS = {"functions": [{"name": "f"}]}


def choose(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


INVALID_BODIES: list[tuple[str, Any, str | None]] = [
    ("no messages", {"model": "tiny"}, "messages"),
    ("empty messages", {**BODY, "messages": []}, "messages"),
    ("no model", {"messages": QUESTION}, "model"),
    ("negative max_tokens", {**BODY, "max_tokens": -2}, "max_tokens"),
    ("no token", {**BODY, "max_tokens": 0}, "max_tokens"),
    ("Mirostat", {**BODY, "mirostat": 2}, "mirostat"),
    ("audio", {**BODY, "modalities": ["text", "audio"]}, "modalities"),
    ("text for a number", {**BODY, "temperature": "hot"}, "temperature"),
    ("too hot", {**BODY, "temperature": -0.1}, "temperature"),
    ("unknown role", {**BODY, "messages": [{"role": "boss", "content": ""}]}, "messages[0].role"),
    ("no content", {**BODY, "messages": [{"role": "user"}]}, "messages[0]"),
    (
        "an image",
        {
            **BODY,
            "messages": [
                *QUESTION,
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
            ],
        },
        "messages[1].content",
    ),
    (
        "a number as content",
        {**BODY, "messages": [{"role": "user", "content": 3}]},
        "messages[0].content",
    ),
    (
        "no such response format",
        {**BODY, "response_format": {"type": "xml"}},
        "response_format.type",
    ),
    (
        "a schema without a schema",
        {**BODY, "response_format": {"type": "json_schema"}},
        "response_format",
    ),
    ("two constraints", {**BODY, "grammar": "root ::= x", "guided_regex": "x"}, None),
    ("a bias for no token", {**BODY, "logit_bias": {"hello": 1}}, "logit_bias.hello"),
    ("a bias too strong", {**BODY, "logit_bias": {"1": 101}}, "logit_bias.1"),
    ("top_logprobs alone", {**BODY, "top_logprobs": 2}, None),
    ("too many answers", {**BODY, "n": 1000}, "n"),
    ("a stop that is no text", {**BODY, "stop": [1]}, "stop[0]"),
    ("a body that is a list", [], None),
    (
        "a tool choice of another kind",
        {**BODY, "tool_choice": {"type": "custom", "custom": {"name": "f"}}},
        "tool_choice.type",
    ),
    ("a custom tool", {**BODY, "tools": [{"type": "custom", "custom": {}}]}, "tools[0]"),
    ("a forced call without tools", {**BODY, "tool_choice": "required"}, "tool_choice"),
    ("a tool that is missing", {**BODY, "tools": TOOLS, "tool_choice": choose("g")}, "tool_choice"),
    ("a function that is missing", {**BODY, **FUNCTIONS, "function_call": {"name": "g"}}, CALL),
    ("functions and tools", {**BODY, **FUNCTIONS, "tools": TOOLS}, None),
    ("a choice of tools for functions", {**BODY, **FUNCTIONS, "tool_choice": "required"}, None),
    ("a choice of a function without any", {**BODY, "function_call": {"name": "f"}}, None),
    ("a choice of none for tools", {**BODY, "tools": TOOLS, "function_call": "none"}, None),
    ("a function without a name", {**BODY, "functions": [{}]}, "functions[0].name"),
    ("tool choice", {**BODY, "tool_choice": "maybe"}, "tool_choice"),
    (
        "reserved variable",
        {**BODY, "chat_template_kwargs": {"messages": []}},
        "chat_template_kwargs",
    ),
]


@pytest.mark.parametrize(
    ("body", "param"),
    [body[1:] for body in INVALID_BODIES],
    ids=[body[0] for body in INVALID_BODIES],
)
async def test_an_invalid_body_is_400_and_names_the_field(
    api: Api, body: Any, param: str | None
) -> None:
    async with api.client() as client:
        answer = await client.post(PATH, json=body)

    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param), error
    assert error["type"] == "invalid_request_error"
    assert param is None or param in error["message"] or "part" in error["message"]
    assert not api.engine.submits


@pytest.mark.parametrize("raw", [b"{", b"", b"nope", b'{"model": "tiny",}', b'"\xff"'], ids=repr)
async def test_malformed_json_is_400(api: Api, raw: bytes) -> None:
    async with api.client() as client:
        answer = await client.post(PATH, content=raw)

    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_a_body_is_parsed_as_json_for_any_content_type(api: Api) -> None:
    async with api.client() as client:
        answer = await client.post(
            PATH,
            content=json.dumps(BODY),
            headers={"content-type": "application/x-www-form-urlencoded"},
        )

    assert answer.status_code == 200


async def test_unknown_fields_and_nulls_are_ignored(api: Api) -> None:
    extras = {"user": "u", "metadata": {"a": 1}, "stop": None, "n": None, "store": False}
    async with api.client() as client:
        answer = await client.post(PATH, json={**BODY, **extras})

    assert answer.status_code == 200


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": -1},
        {"max_completion_tokens": -1},
        {"repeat_last_n": -1},
        {"top_logprobs": 0},
        {"grammar": "", "response_format": {"type": "json_object"}},
        {"mirostat": 0, "dynatemp_range": 0, "top_n_sigma": -1, "samplers": []},
        {"modalities": ["text"], "functions": [], "verbosity": "low", "user": "u"},
        {"guided_json": {"type": "object"}},
    ],
    ids=str,
)
async def test_what_clients_send_by_default_is_accepted(api: Api, fields: dict[str, Any]) -> None:
    async with api.client() as client:
        answer = await client.post(PATH, json={**BODY, **fields})

    assert answer.status_code == 200, answer.text
    assert not api.engine.submits[0].stopping.HasField("max_tokens")


async def test_a_refused_field_is_named_with_the_reason(api: Api) -> None:
    async with api.client() as client:
        answer = await client.post(PATH, json={**BODY, "mirostat": 2})

    assert answer.json()["error"]["message"] == "mirostat: is not supported: there is no Mirostat"


async def test_earlier_thinking_is_left_out_of_a_message(api: Api) -> None:
    parts = [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Paris."}]
    messages = [*QUESTION, {"role": "assistant", "content": parts}, *QUESTION]
    async with api.client() as client:
        await client.post(PATH, json={"model": "tiny", "messages": messages})

    text = api.engine.submits[0].text.pieces[0].text
    assert "assistant\nParis.<|im_end|>" in text


async def test_an_unknown_model_is_404_and_lists_the_stored_models(api: Api) -> None:
    async with openai_client(api) as client:
        with pytest.raises(openai.NotFoundError) as caught:
            await client.chat.completions.create(model="huge", messages=QUESTION)

    assert caught.value.code == "model_not_found"
    assert "tiny:latest" in caught.value.message


async def test_openapi_json_is_served_to_clients_with_a_key(api: Api) -> None:
    async with api.client() as client:
        described = (await client.get("/openapi.json")).json()

    assert "/v1/chat/completions" in described["paths"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("chat_template_kwargs", '{"a": [NaN]}'),
        ("json_schema", '{"const": -Infinity}'),
        (
            "response_format",
            '{"type": "json_schema", "json_schema": {"schema": {"minimum": 1e999}}}',
        ),
        ("tools", '[{"type": "function", "function": {"name": "f", "parameters": {"a": NaN}}}]'),
        ("functions", '[{"name": "f", "parameters": {"a": NaN}}]'),
    ],
)
async def test_numbers_that_json_lacks_are_refused_by_the_name_of_the_field(
    api: Api, field: str, value: str
) -> None:
    raw = f'{json.dumps(BODY)[:-1]}, "{field}": {value}}}'
    async with api.client() as client:
        answer = await client.post(PATH, content=raw)

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, field), answer.text
    assert not api.engine.submits
