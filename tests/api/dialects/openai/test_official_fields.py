"""No field of the official client is dropped in silence: each changes something, or is refused.

Each field is sent with the official client, and what the engine gets, or what the client gets back,
is compared with the same request without the field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import openai
import pytest
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params

from services.api.dialects.openai.schemas.chat_schema import ChatCompletionRequest
from services.api.dialects.openai.schemas.completions_schema import CompletionRequest
from services.api.dialects.openai.schemas.refused_fields import NO_EFFECT, list_refused
from tests.api.chat_helpers import QUESTION, openai_client
from tests.api.conftest import Api, make_description, make_manifest, put_model
from tests.api.prompts.rendering import HERE
from tests.fakes.scripted_engine import delta, finished, started

FUNCTION: dict[str, Any] = {"name": "f", "parameters": {"type": "object", "properties": {}}}
OTHER: dict[str, Any] = {"name": "g"}
TOOL: dict[str, Any] = {"type": "function", "function": FUNCTION}
TWO: dict[str, Any] = {"tools": [TOOL, {"type": "function", "function": OTHER}]}
FORCED = {"tools": [TOOL], "tool_choice": "required"}
STREAMED = {"stream": True}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "string"}}}
# By field: its value, and the other fields that it needs.
Values = Mapping[str, tuple[Any, Mapping[str, Any]]]
COMMON: Values = {
    "frequency_penalty": (0.5, {}),
    "logit_bias": ({"5": -100}, {}),
    "max_tokens": (5, {}),
    "model": ("other", {}),
    "n": (2, {}),
    "presence_penalty": (0.5, {}),
    "seed": (3, {}),
    "stop": (["x"], {}),
    "stream_options": ({"include_usage": True}, STREAMED),
    "temperature": (0.3, {}),
    "top_p": (0.4, {}),
    "user": ("u", {}),
}
CHAT: Values = {
    **COMMON,
    "audio": ({"voice": "a", "format": "mp3"}, {}),
    "function_call": ({"name": "f"}, {"functions": [FUNCTION, OTHER]}),
    "functions": ([FUNCTION], {}),
    "logprobs": (True, {}),
    "max_completion_tokens": (5, {}),
    "messages": ([{"role": "developer", "content": "Be short."}, *QUESTION], {}),
    "metadata": ({"a": "b"}, {}),
    "modalities": (["text", "audio"], {}),
    "moderation": ({"model": "m"}, {}),
    "parallel_tool_calls": (False, FORCED),
    "prediction": ({"type": "content", "content": "Paris"}, {}),
    "prompt_cache_key": ("k", {}),
    "prompt_cache_options": ({"ttl": "5m"}, {}),
    "prompt_cache_retention": ("24h", {}),
    "reasoning_effort": ("low", {}),
    "response_format": (SCHEMA, {}),
    "safety_identifier": ("s", {}),
    "service_tier": ("flex", {}),
    "store": (True, {}),
    "tool_choice": ({"type": "function", "function": {"name": "g"}}, TWO),
    "tools": ([TOOL], {}),
    "top_logprobs": (2, {"logprobs": True}),
    "verbosity": ("low", {}),
    "web_search_options": ({}, {}),
}
COMPLETIONS: Values = {
    **COMMON,
    "best_of": (3, {}),
    "echo": (True, {}),
    "logprobs": (2, {}),
    "prompt": ("Other", {}),
    "suffix": ("z", {}),
}


@pytest.fixture(autouse=True)
def models(api: Api) -> None:
    """Two models that think and call tools."""
    template = (HERE / "qwen_like.jinja").read_text() + "{# <think> #}"
    for name in ("caller", "other"):
        description = make_description(chat_template=template)
        put_model(api.data_dir / "models", make_manifest(f"{name}:latest", description=description))


def script(api: Api, count: int) -> None:
    api.engine.scripts["*"] = [
        started(),
        *(delta("Paris.", index) for index in range(count)),
        *(finished(index=index) for index in range(count)),
    ]


async def observe(api: Api, resource: str, body: Mapping[str, Any]) -> object:
    """What the engine got and what the client got, without ids and times."""
    api.engine.submits.clear()
    count = max(body.get("n") or 1, body.get("best_of") or 1)
    script(api, count)
    async with openai_client(api) as client:
        target: Any = client
        for name in resource.split("."):
            target = getattr(target, name)
        answer = await target.create(**body)
        chunks = [chunk async for chunk in answer] if body.get("stream") else [answer]
    submits = []
    for submit in api.engine.submits:
        submit.request_id, submit.trace_id = 0, ""
        submits.append(submit.SerializeToString(deterministic=True))
    shown = [
        chunk.model_dump(exclude={"id", "created", "timings", "model_extra"}) for chunk in chunks
    ]
    return submits, shown


def test_every_field_of_the_client_has_a_value_here() -> None:
    chat, text = chat_create_params, completion_create_params

    assert set(chat.CompletionCreateParamsBase.__annotations__) == set(CHAT)
    assert set(text.CompletionCreateParamsBase.__annotations__) == set(COMPLETIONS)


@pytest.mark.parametrize("field", CHAT)
async def test_a_field_of_a_chat(api: Api, field: str) -> None:
    base = {"model": "caller", "messages": QUESTION}
    refused = list_refused(ChatCompletionRequest)

    await check_field(api, "chat.completions", base, field, CHAT[field], refused)


@pytest.mark.parametrize("field", COMPLETIONS)
async def test_a_field_of_a_completion(api: Api, field: str) -> None:
    base = {"model": "caller", "prompt": "Hello"}
    refused = list_refused(CompletionRequest)

    await check_field(api, "completions", base, field, COMPLETIONS[field], refused)


async def check_field(
    api: Api,
    resource: str,
    base: Mapping[str, Any],
    field: str,
    given: tuple[Any, Mapping[str, Any]],
    refused: Mapping[str, str],
) -> None:
    value, needed = given
    body = {**base, **needed}
    if field in refused:
        with pytest.raises(openai.BadRequestError) as caught:
            await observe(api, resource, {**body, field: value})
        assert caught.value.param == field
        return
    before = await observe(api, resource, body)
    after = await observe(api, resource, {**body, field: value})
    assert (before == after) == (field in NO_EFFECT)
