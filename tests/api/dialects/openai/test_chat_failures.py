"""Chats that fail: errors before and after the first token, lost engines, disconnected clients."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import openai
import pytest

from protos import engine_pb2
from services.shared.errors import EngineBusy, InvalidRequest, ModelLoadFailed, RunnerDied
from tests.api.chat_helpers import BODY, PATH, QUESTION, openai_client, parse_data, stream_lines
from tests.api.conftest import Api, make_description, make_manifest, put_model, running_api
from tests.api.prompts.rendering import HERE
from tests.fakes.scripted_engine import delta, failed, finished, queued, started


async def test_an_error_before_the_first_token_is_an_http_error(api: Api) -> None:
    api.engine.scripts["*"] = [
        queued(1, engine_pb2.QUEUE_REASON_LOADING),
        failed(ModelLoadFailed("tiny:latest: the file is truncated")),
    ]
    async with api.client() as client:
        answer = await client.post(PATH, json={**BODY, "stream": True})

    assert answer.status_code == 500
    assert answer.headers["x-should-retry"] == "false"
    assert answer.json()["error"] == {
        "message": "tiny:latest: the file is truncated",
        "type": "server_error",
        "param": None,
        "code": "model_load_failed",
    }


TOOL = {"name": "f", "strict": True, "parameters": {"type": "object", "required": 5}}
LARK = "invalid lark: at 4(16): failed to compile JSON schema: Expected array\n  2 | call: f"


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"grammar": "root ::= x"}, "gbnf", "invalid gbnf: x"),
        ({"guided_regex": "("}, "regex", "invalid regex: ("),
        ({"guided_json": {"a": 1}}, "json_schema", "invalid json schema"),
        ({"json_schema": {"a": 1}}, "json_schema", "invalid json schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"a": 1}}}},
            "json_schema",
            "invalid json schema",
        ),
        ({"tools": [{"type": "function", "function": TOOL}]}, "lark", LARK),
        ({"functions": [TOOL]}, "lark", LARK),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_what_cannot_be_enforced_is_an_error_of_the_clients_field(
    api: Api, fields: dict[str, Any], kind: str, message: str
) -> None:
    api.engine.scripts["*"] = [failed(InvalidRequest(message, param=kind))]
    template = (HERE / "qwen_like.jinja").read_text()
    description = make_description(chat_template=template)
    put_model(api.data_dir / "models", make_manifest("caller:latest", description=description))
    async with api.client() as client:
        answer = await client.post(PATH, json={**BODY, "model": "caller", **fields})

    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, next(iter(fields)))
    if kind == "lark":
        message = "the parameters of a function cannot be enforced: Expected array"
    assert error["message"] == message


async def test_a_full_queue_is_429_with_retry_after(api: Api) -> None:
    api.engine.scripts["*"] = [failed(EngineBusy("256 requests wait", retry_after_seconds=3.2))]
    async with openai_client(api) as client:
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(model="tiny", messages=QUESTION)

    assert caught.value.response.headers["retry-after"] == "4"
    assert caught.value.code == "engine_busy"


async def test_an_error_after_the_first_token_is_an_event_followed_by_done(api: Api) -> None:
    api.engine.scripts["*"] = [delta("Par"), failed(RunnerDied("the model's process died"))]
    async with api.client() as client:
        lines = await stream_lines(client, BODY)

    assert parse_data(lines[-2])["error"]["code"] == "runner_died"
    assert lines[-1] == "data: [DONE]"
    async with openai_client(api) as official:
        stream = await official.chat.completions.create(
            model="tiny", messages=QUESTION, stream=True
        )
        with pytest.raises(openai.APIError, match="process died"):
            _ = [chunk async for chunk in stream]


async def test_a_session_that_breaks_mid_answer_ends_the_stream_with_an_error(api: Api) -> None:
    api.engine.scripts["*"] = [delta("Par"), asyncio.Event()]
    async with api.client() as client:
        async with client.stream("POST", PATH, json={**BODY, "stream": True}) as answer:
            lines = []
            async for line in answer.aiter_lines():
                lines.append(line)
                if "Par" in line:
                    api.engine.break_sessions()
        api.engine.scripts["*"] = [delta("again"), finished()]
        after = await client.post(PATH, json=BODY)

    sent_lines = [line for line in lines if line]
    assert parse_data(sent_lines[-2])["error"]["code"] == "engine_unavailable"
    assert "127.0.0.1" not in sent_lines[-2]
    assert sent_lines[-1] == "data: [DONE]"
    assert after.json()["choices"][0]["message"]["content"] == "again"
    assert api.engine.sessions == 2


async def test_a_session_that_breaks_fails_an_unstreamed_answer_with_503(api: Api) -> None:
    api.engine.scripts["*"] = [asyncio.Event()]
    async with api.client() as client:
        request = asyncio.create_task(client.post(PATH, json=BODY))
        await api.engine.wait_until(lambda: api.engine.submits)
        api.engine.break_sessions()
        answer = await request

    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "2"


@pytest.mark.parametrize("stream", [False, True], ids=["complete", "streamed"])
async def test_a_client_that_disconnects_cancels_its_request_in_the_engine(
    api: Api, stream: bool
) -> None:
    api.engine.scripts["*"] = [delta("Par"), asyncio.Event()]
    async with api.client() as client:
        request = asyncio.create_task(client.post(PATH, json={**BODY, "stream": stream}))
        await api.engine.wait_until(lambda: api.engine.submits)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)

    await api.engine.wait_until(lambda: api.engine.cancels)
    assert api.engine.cancels == [api.engine.submits[0].request_id]


async def test_a_silent_stream_sends_comments(tmp_path: Path, redis_url: str, api: Api) -> None:
    gate = asyncio.Event()
    api.engine.scripts["*"] = [queued(3), gate, started(), delta("Paris."), finished()]
    async with (
        running_api(tmp_path, redis_url, api.engine, sse_keepalive_seconds=0.02) as quick,
        quick.client() as client,
        client.stream("POST", PATH, json={**BODY, "stream": True}) as answer,
    ):
        lines = []
        async for line in answer.aiter_lines():
            lines.append(line)
            if line.startswith(":"):
                gate.set()

    sent_lines = [line for line in lines if line]
    assert ": queued position=3 reason=slots" in sent_lines
    assert parse_data(sent_lines[0])["choices"][0]["delta"]["role"] == "assistant"
    assert "Paris." in "".join(sent_lines)


async def test_the_text_of_a_stream_with_many_deltas_is_complete(api: Api) -> None:
    words = [f"w{number} " for number in range(5000)]
    api.engine.scripts["*"] = [*(delta(word) for word in words), finished(tokens=5000)]
    async with api.client() as client:
        lines = await stream_lines(client, BODY)

    chunks = [parse_data(line) for line in lines[:-1]]
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks)
    assert text == "".join(words)
