"""Thinking and calls of the public gRPC service."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

from protos import spindll_pb2
from protos.spindll_pb2_grpc import SpindllStub
from tests.api.conftest import Api, make_description, make_manifest, put_model, running_api
from tests.api.prompts.rendering import HERE
from tests.fakes.scripted_engine import ScriptedEngine, delta, finished, started
from tests.waiting import free_port

if TYPE_CHECKING:
    from protos.spindll_pb2_grpc import SpindllAsyncStub

QUESTION = spindll_pb2.Message(role="user", content="hi")
TOOL = json.dumps({"name": "f", "parameters": {"type": "object"}})
CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'


class Chat:
    """A stub with the key of a user, and the worker that it talks to."""

    def __init__(self, api: Api, stub: SpindllAsyncStub) -> None:
        self.api = api
        self._stub = stub

    async def ask(self, **fields: Any) -> list[spindll_pb2.ChatResponse]:
        request = spindll_pb2.ChatRequest(**{"model": "m", "messages": [QUESTION], **fields})
        metadata = (("authorization", f"Bearer {self.api.user_key}"),)
        return [a async for a in self._stub.Chat(request, metadata=metadata, timeout=20)]

    def script(self, *texts: str) -> None:
        deltas = map(delta, texts)
        self.api.engine.scripts["*"] = [started(), *deltas, finished(tokens=len(texts))]

    @property
    def prompt(self) -> str:
        return str(self.api.engine.submits[-1].text.pieces[-1].text)


@pytest.fixture
async def chat(tmp_path: Path, redis_url: str, engine: ScriptedEngine) -> AsyncIterator[Chat]:
    template = (HERE / "qwen_like.jinja").read_text()
    manifest = make_manifest("m:latest", description=make_description(chat_template=template))
    put_model(tmp_path / "data" / "models", manifest)
    port = free_port()
    async with (
        running_api(tmp_path, redis_url, engine, grpc_port=port, drain_seconds=0.1) as api,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield Chat(api, SpindllStub(channel))


async def test_thinking_is_text_for_clients_of_the_original(chat: Chat) -> None:
    chat.script("<think>", "Hm.", "</think>", "Yes.")
    answers = await chat.ask()

    assert "".join(a.token for a in answers) == "<think>Hm.</think>Yes."
    assert {a.reasoning for a in answers} == {""}


async def test_thinking_is_separated_on_request(chat: Chat) -> None:
    chat.script("<think>", "Hm.", "</think>", "Yes.")
    answers = await chat.ask(separate_reasoning=True)

    assert "".join(a.reasoning for a in answers) == "Hm."
    assert "".join(a.token for a in answers) == "Yes."
    assert answers[-1].finish_reason == "stop"
    assert answers[-1].usage.reasoning_tokens == 2


async def test_a_call_has_its_name_first_and_then_its_arguments(chat: Chat) -> None:
    chat.script("I look. ", CALL[:30], CALL[30:])
    answers = await chat.ask(tools=[TOOL])

    calls = [a.tool_call for a in answers if a.HasField("tool_call")]
    assert calls[0].id.startswith("call_")
    assert [(c.index, c.name) for c in calls] == [(0, "f")] + [(0, "")] * (len(calls) - 1)
    assert json.loads("".join(c.arguments for c in calls)) == {"a": 1}
    assert "".join(a.token for a in answers) == "I look."
    assert (answers[-1].done, answers[-1].finish_reason) == (True, "tool_calls")
    assert '"name": "f"' in chat.prompt


async def test_without_parallel_calls_the_first_one_ends_the_answer(chat: Chat) -> None:
    chat.script(CALL, CALL)
    answers = await chat.ask(tools=[TOOL], parallel_tool_calls=False)

    assert {a.tool_call.index for a in answers if a.HasField("tool_call")} == {0}
    assert answers[-1].finish_reason == "tool_calls"


async def test_earlier_calls_and_results_reach_the_template(chat: Chat) -> None:
    call = spindll_pb2.ToolCall(id="c1", name="f", arguments='{"a": 1}')
    answer = spindll_pb2.Message(role="assistant", tool_calls=[call])
    result = spindll_pb2.Message(role="tool", content="42", tool_call_id="c1", name="f")
    await chat.ask(messages=[QUESTION, answer, result], tools=[TOOL])

    assert '<tool_call>\n{"name": "f", "arguments": {"a": 1}}' in chat.prompt
    assert "<tool_response>\n42\n" in chat.prompt


async def test_thinking_is_switched_off(chat: Chat) -> None:
    await chat.ask(thinking=False)

    assert chat.prompt.endswith("<think>\n\n</think>\n\n")


@pytest.mark.parametrize("tool", ["", "{", "[]", '{"name": 1}', '{"name": "f", "parameters": 1}'])
async def test_a_tool_that_is_no_function_is_refused(chat: Chat, tool: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await chat.ask(tools=[TOOL, tool])

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "tools[1]" in (caught.value.details() or "")


@pytest.mark.parametrize(("given", "limit"), [(None, None), (-1, None), (0, 0), (50, 50)])
async def test_the_limit_of_thinking_reaches_the_engine(
    chat: Chat, given: int | None, limit: int | None
) -> None:
    chat.script("Paris.")
    await chat.ask(thinking_budget=given)

    submit = chat.api.engine.submits[-1]
    assert (submit.thinking.max_tokens if submit.HasField("thinking") else None) == limit
