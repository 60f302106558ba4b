"""The limits of HTTP hold for the public gRPC service too, and name the field."""

from __future__ import annotations

import json
from typing import Any

import grpc
import grpc.aio
import pytest

from protos import spindll_pb2
from tests.api.dialects.grpc.test_chat_parts import QUESTION, Chat, chat

__all__ = ["chat"]  # the fixture


def tool(**function: Any) -> list[str]:
    return [json.dumps({"name": "f", **function})]


def nest(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth):
        value = {"a": value}
    return value


CALL = spindll_pb2.ToolCall(name="f", arguments="{}")
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "a long effort": ({"reasoning_effort": "x" * 65}, "reasoning_effort"),
    "a long stop string": ({"params": {"stop": ["x" * 1025]}}, "stop"),
    "many stop strings": ({"params": {"stop": ["x"] * 65}}, "stop"),
    "many messages": ({"messages": [QUESTION] * 16_385}, "messages"),
    "many tools": ({"tools": tool() * 1025}, "tools"),
    "many calls": (
        {"messages": [spindll_pb2.Message(role="assistant", tool_calls=[CALL] * 1025)]},
        "tool_calls",
    ),
    "parameters that are a list": ({"tools": tool(parameters=[])}, "tools[0]"),
    "a tool that is deep": ({"tools": tool(parameters=nest(400))}, "tools"),
    "a number that JSON lacks": (
        {"tools": ['{"name": "f", "parameters": {"a": NaN}}']},
        "tools[0]",
    ),
    "half a character": ({"tools": ['{"name": "f", "description": "\\ud800"}']}, "tools[0]"),
}


@pytest.mark.parametrize("name", CASES)
async def test_what_http_refuses_is_refused(chat: Chat, name: str) -> None:
    fields, param = CASES[name]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await chat.ask(**fields)

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert ("spindll-error-field", param) in tuple(caught.value.trailing_metadata() or ())
    assert not chat.api.engine.submits
