"""The limit of the thinking that the engine gets, and the fields in which clients ask for it."""

from __future__ import annotations

from typing import Any

import pytest

from protos import engine_pb2
from tests.api.chat_helpers import BODY, PATH
from tests.api.conftest import TEMPLATE, Api, make_description, make_manifest, put_model

SWITCH = "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
TEMPLATES = {
    "switched": TEMPLATE + SWITCH,
    "unswitched": TEMPLATE + "{# </think> #}",
    "opened": TEMPLATE + "<think>",
    "with-effort": "{{ reasoning_effort or '' }}" + TEMPLATE + "{# <think> #}",
    "with-level": TEMPLATE + "{# .ThinkLevel <think> #}",
    "thoughtless": TEMPLATE,
    "harmony": TEMPLATE + "{# <|channel|>analysis<|message|> functions. #}",
}
JSON: dict[str, Any] = {"response_format": {"type": "json_object"}}


@pytest.fixture(autouse=True)
def thinkers(api: Api) -> None:
    for name, template in TEMPLATES.items():
        description = make_description(chat_template=template)
        put_model(api.data_dir / "models", make_manifest(f"{name}:latest", description=description))


async def ask(api: Api, model: str, **fields: Any) -> engine_pb2.ThinkingBudget | None:
    """What the engine got."""
    async with api.client() as client:
        answer = await client.post(PATH, json={**BODY, "model": model, **fields})
    assert answer.status_code == 200, answer.text
    submit = api.engine.submits[-1]
    return submit.thinking if submit.HasField("thinking") else None


def build(max_tokens: int | None, **changes: Any) -> engine_pb2.ThinkingBudget:
    fields: dict[str, Any] = {"start": "<think>", "end": "</think>", "max_tokens": max_tokens}
    return engine_pb2.ThinkingBudget(**{**fields, **changes})


@pytest.mark.parametrize(
    ("fields", "budget"),
    [
        ({}, None),
        ({"thinking_budget_tokens": 50}, 50),
        ({"thinking_budget_tokens": -1}, None),
        ({"reasoning_budget_tokens": 50}, 50),
        ({"thinking_budget": 50}, 50),
        ({"thinking_token_budget": 50}, 50),
        ({"thinking_budget_tokens": None, "thinking_budget": 50}, 50),
        ({"reasoning_budget_tokens": None, "thinking_token_budget": 50}, 50),
        ({"reasoning": {"max_tokens": 50}}, 50),
        ({"reasoning": {"effort": "low", "max_tokens": 50, "exclude": True}}, 50),
        ({"thinking": {"type": "enabled", "budget_tokens": 50}}, 50),
        ({"thinking": {"type": "adaptive"}}, None),
        ({"reasoning_effort": "minimal"}, 512),
        ({"reasoning_effort": "low"}, 1024),
        ({"reasoning": {"effort": "medium"}}, 8192),
        ({"reasoning_effort": "high"}, None),
        ({"reasoning_effort": "low", "thinking_budget_tokens": 50}, 50),
        ({"thinking_budget_tokens": 0}, 0),
    ],
)
async def test_the_budget_of_every_kind_of_client_reaches_the_engine(
    api: Api, fields: dict[str, Any], budget: int | None
) -> None:
    assert await ask(api, "switched", **fields) == (None if budget is None else build(budget))


@pytest.mark.parametrize(
    "fields",
    [
        {"thinking_budget_tokens": 0},
        {"reasoning_effort": "none"},
        {"reasoning": {"effort": "none"}},
        {"reasoning": {"enabled": False}},
        {"thinking": {"type": "disabled"}},
        {"thinking": {"type": "disabled", "budget_tokens": 9}},
        {"enable_thinking": False},
    ],
    ids=lambda fields: next(iter(fields)),
)
async def test_no_thinking_is_the_switch_of_the_template_or_an_end_at_once(
    api: Api, fields: dict[str, Any]
) -> None:
    await ask(api, "switched", **fields)
    prompt = api.engine.submits[-1].text.pieces[-1].text

    assert prompt.endswith("<think></think>")
    assert await ask(api, "unswitched", **fields) == build(0)
    assert await ask(api, "opened", **fields) == build(0, is_open=True)


@pytest.mark.parametrize(
    ("model", "fields", "budget"),
    [
        ("with-effort", {"reasoning_effort": "low"}, None),
        ("with-level", {"reasoning_effort": "low"}, None),
        ("with-effort", {"thinking_budget_tokens": 9}, build(9)),
        ("thoughtless", {"thinking_budget_tokens": 9}, None),
        ("thoughtless", JSON, None),
        ("switched", JSON, build(None, spares_answer=True)),
        ("switched", {**JSON, "thinking_budget_tokens": 9}, build(9, spares_answer=True)),
        ("switched", {**JSON, "reasoning_format": "none"}, None),
        ("opened", {**JSON, "reasoning_format": "none", "thinking_budget_tokens": 9}, None),
        ("opened", JSON, build(None, is_open=True, spares_answer=True)),
        ("harmony", {"thinking_budget_tokens": 9},
         build(9, start="<|channel|>analysis<|message|>", end="<|end|>")),
    ],
)  # fmt: skip
async def test_the_budget_depends_on_the_model_and_on_what_must_follow(
    api: Api, model: str, fields: dict[str, Any], budget: engine_pb2.ThinkingBudget | None
) -> None:
    assert await ask(api, model, **fields) == budget


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"thinking_budget_tokens": -2}, "thinking_budget_tokens"),
        ({"thinking_budget_tokens": 1, "reasoning": {"max_tokens": 1}}, "exclude each other"),
        ({"reasoning": {"exclude": True}, "reasoning_format": "none"}, "reasoning_format"),
        ({"include_reasoning": False, "reasoning_format": "none"}, "reasoning_format"),
        ({"reasoning": {"exclude": "often"}}, "exclude"),
        ({"thinking": {"type": "often"}}, "thinking"),
    ],
)
async def test_what_cannot_be_done_is_named(api: Api, fields: dict[str, Any], message: str) -> None:
    async with api.client() as client:
        answer = await client.post(PATH, json={**BODY, "model": "switched", **fields})

    assert answer.status_code == 400
    assert message in str(answer.json()["error"])
