"""What makes prompts differ without a meaning is removed, and nothing else."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest

from services.api.cache_reports.fingerprint import find_difference, take_fingerprint
from services.api.prompts.canonical import canonicalise
from services.api.prompts.render import Conversation
from tests.api.conftest import Api, running_api
from tests.fakes.scripted_engine import ScriptedEngine

HEADER = "x-anthropic-billing-header: cc_version=2.1.197.{}; cc_entrypoint=cli; cch={};"
PROMPT = "You are Claude Code.\nBe careful."
USER = {"role": "user", "content": "hi"}


def read_messages(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    return list(canonicalise(Conversation(messages=messages)).messages)


@pytest.mark.parametrize(
    ("content", "rest"),
    [
        (f"{HEADER.format('a1b', '36ee5')}\n{PROMPT}", PROMPT),
        (f"{HEADER.format('fff', '0aaa9')}\n\n{PROMPT}", PROMPT),
        (f"{HEADER.format('a1b', '36ee5')}{PROMPT}", PROMPT),
        (f"x-anthropic-billing-header: cc_version=2.1.29.0\n{PROMPT}", PROMPT),
        (PROMPT, PROMPT),
        (f"Explain {HEADER}", f"Explain {HEADER}"),
        ("x-anthropic-billing-header: what is it?", "x-anthropic-billing-header: what is it?"),
        (f"{HEADER.format('a1b', '1')}  \r\n  indented", "  indented"),
        ("x-anthropic-billing-header:cch=1; You answer; x=y", "You answer; x=y"),
        ("x-anthropic-billing-header: cch=1; x=1 is true;", "x=1 is true;"),
        ("x-anthropic-billing-header: cch=1 is it", "x-anthropic-billing-header: cch=1 is it"),
    ],
)
def test_the_billing_header_is_removed_and_nothing_of_the_prompt(content: str, rest: str) -> None:
    assert read_messages({"role": "system", "content": content}, USER) == [
        {"role": "system", "content": rest},
        USER,
    ]


def test_a_message_that_is_only_a_header_is_left_out() -> None:
    header = {"role": "system", "content": HEADER.format("abc", "12345")}
    system = {"role": "system", "content": PROMPT}

    assert read_messages(header, system, USER) == [system, USER]
    assert read_messages(header) == [header]  # a chat needs a message
    assert read_messages({"role": "system", "content": ""}, USER)[0]["content"] == ""


@pytest.mark.parametrize("role", ["user", "assistant", "tool"])
def test_what_people_and_models_wrote_stays(role: str) -> None:
    written = {"role": role, "content": HEADER.format("abc", "12345")}
    later = {"role": "system", "content": HEADER.format("abc", "12345")}

    assert read_messages(written, later) == [written, later]


def make_tools() -> list[dict[str, Any]]:
    parameters = {
        "type": "object",
        "properties": {
            "thoughts": {"type": "string", "description": "first"},
            "answer": {
                "anyOf": [{"type": "string", "enum": ["b", "a"]}, {"type": "null"}],
                "default": {"z": 1, "a": 2},
            },
        },
        "required": ["thoughts", "answer"],
        "additionalProperties": False,
    }
    return [
        {
            "type": "function",
            "function": {
                "name": name,
                "description": "d",
                "parameters": parameters,
                "strict": True,
            },
        }
        for name in ("read", "write", "list")
    ]


def shuffle(value: Any, rng: random.Random, *, is_map: bool = False) -> Any:
    """The same JSON schema with its keywords in another order."""
    if isinstance(value, list):
        return [shuffle(each, rng) for each in value]
    if not isinstance(value, dict):
        return value
    items = list(value.items())
    if not is_map:
        rng.shuffle(items)
    return {
        name: each if name == "default" else shuffle(each, rng, is_map=name == "properties")
        for name, each in items
    }


def test_tools_in_any_order_with_keys_in_any_order_are_one_prompt() -> None:
    expected = json.dumps(canonicalise(Conversation(messages=[USER], tools=make_tools())).tools)
    rng = random.Random(16)
    for order in itertools.permutations(make_tools()):
        for _ in range(20):
            tools = shuffle(list(order), rng)
            found = canonicalise(Conversation(messages=[USER], tools=tools)).tools

            assert json.dumps(found) == expected


def test_what_the_order_of_means_something_stays() -> None:
    (first, *_) = canonicalise(Conversation(messages=[USER], tools=make_tools())).tools or ()
    parameters = first["function"]["parameters"]

    assert first["function"]["name"] == "list"
    assert list(parameters["properties"]) == ["thoughts", "answer"]
    assert parameters["required"] == ["thoughts", "answer"]
    assert parameters["properties"]["answer"]["anyOf"][0]["enum"] == ["b", "a"]
    assert list(parameters["properties"]["answer"]["default"]) == ["z", "a"]


def test_a_conversation_has_the_same_content_afterwards() -> None:
    conversation = Conversation(messages=[USER], tools=make_tools(), options={"b": 1, "a": 2})
    found = canonicalise(conversation)

    by_name = {tool["function"]["name"]: tool for tool in found.tools or ()}
    assert by_name == {tool["function"]["name"]: tool for tool in make_tools()}
    assert (found.messages, found.options) == (conversation.messages, conversation.options)


def test_a_schema_that_is_nested_without_end_is_left_to_the_check_of_depth() -> None:
    schema: dict[str, Any] = {}
    for _ in range(5000):
        schema = {"items": schema}
    tool = {"type": "function", "function": {"name": "deep", "parameters": schema}}

    canonicalise(Conversation(messages=[USER], tools=[tool]))


@pytest.mark.parametrize("is_on", [True, False])
async def test_the_setting_decides_what_the_engine_gets(
    tmp_path: Path, redis_url: str, engine: ScriptedEngine, api: Api, *, is_on: bool
) -> None:
    content = f"{HEADER.format('a1b', '36ee5')}\n{PROMPT}"
    body = {"model": "tiny", "messages": [{"role": "system", "content": content}, USER]}
    async with (
        running_api(tmp_path, redis_url, engine, canonical_prompts=is_on) as running,
        running.client() as client,
    ):
        await client.post("/v1/chat/completions", json=body)

    text = "".join(piece.text for piece in engine.submits[0].text.pieces)
    assert PROMPT in text
    assert ("billing" in text) is not is_on


def test_two_requests_of_a_coding_agent_differ_in_nothing() -> None:
    first, second = (
        canonicalise(
            Conversation(
                messages=[{"role": "system", "content": f"{HEADER.format(*ids)}\n{PROMPT}"}, USER],
                tools=tools,
            )
        )
        for ids, tools in [(("0a1", "36ee5"), make_tools()), (("9ff", "0"), make_tools()[::-1])]
    )
    key = b"k" * 32

    assert find_difference(take_fingerprint(first, key), take_fingerprint(second, key)) is None
