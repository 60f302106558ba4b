"""Requests in the shapes in which well-known clients send them; none of the clients runs here.

Each is answered, and reaches the engine as its client means it.
"""

from __future__ import annotations

from typing import Any

import pytest

from protos import engine_pb2
from tests.api.chat_helpers import PATH, parse_data, stream_lines
from tests.api.conftest import Api, make_description, make_manifest, put_model
from tests.api.prompts.rendering import HERE
from tests.fakes.scripted_engine import delta, finished, started

READ_FILE: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "read_file",
        "description": "Reads a file",
        "parameters": {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "type": "object",
            "properties": {"path": {"type": "string"}},
            "required": ["path"],
            "additionalProperties": False,
        },
        "strict": False,
    },
}
TITLE = '### Task:\nGenerate a title.\n### Output:\nJSON format: { "title": "..." }'
USAGE = {"stream_options": {"include_usage": True}}


def text(words: str, **more: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": words, **more}]


def make_call(arguments: str, **more: Any) -> dict[str, Any]:
    function = {"name": "read_file", "arguments": arguments}
    return {"id": "call_1", "type": "function", "function": function, **more}


# By client: the body without its model, and texts that the prompt must contain.
REQUESTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "Open WebUI, a chat": (
        {"stream": True, "messages": [{"role": "user", "content": "Hi"}], **USAGE},
        ["Hi"],
    ),
    "Open WebUI, a title": (
        {
            "messages": [{"role": "user", "content": TITLE}],
            "stream": False,
            "max_tokens": 1000,
        },
        [TITLE],
    ),
    "AnythingLLM": (
        {
            "stream": True,
            "messages": [
                {"role": "system", "content": "Given the following conversation"},
                {"role": "user", "content": "Hi"},
            ],
            "temperature": 0.7,
            "max_tokens": 1024,
            **USAGE,
        },
        ["Given the following", "Hi"],
    ),
    "LiteLLM and aider": (
        {
            "messages": [
                {"role": "system", "content": "Act as an expert software developer."},
                {"role": "user", "content": "Change a.py"},
                {"role": "assistant", "content": "Ok."},
                {"role": "user", "content": "Now."},
            ],
            "temperature": 0,
            "stream": True,
        },
        ["expert software developer", "Ok.", "Now."],
    ),
    "Cline": (
        {
            "messages": [
                {"role": "system", "content": "You are Cline"},
                {"role": "user", "content": [*text("<task>\nx\n</task>"), *text("# Files")]},
            ],
            "temperature": 0,
            "max_completion_tokens": 8192,
            "reasoning_effort": "medium",
            "stream": True,
            **USAGE,
        },
        ["You are Cline", "<task>", "# Files"],
    ),
    "Cline and Roo, by OpenRouter": (
        {
            "messages": [
                {"role": "system", "content": text("You", cache_control={"type": "ephemeral"})},
                {"role": "user", "content": text("Hi", cache_control={"type": "ephemeral"})},
            ],
            "max_tokens": 8192,
            "temperature": 0,
            "stream": True,
            **USAGE,
            "transforms": ["middle-out"],
            "include_reasoning": True,
            "reasoning": {"max_tokens": 1024, "exclude": False},
            "provider": {"sort": "throughput"},
            "parallel_tool_calls": False,
            "tools": [READ_FILE],
            "tool_choice": "auto",
        },
        ["Hi", "read_file"],
    ),
    "Continue": (
        {
            "messages": [
                {"role": "system", "content": "You are in agent mode."},
                {"role": "user", "content": text("Read a.py")},
                {"role": "assistant", "content": " ", "tool_calls": [make_call('{"path":"a.py"}')]},
                {"role": "tool", "content": "print(1)", "tool_call_id": "call_1"},
            ],
            "max_tokens": 4096,
            "stop": ["<|endoftext|>", "<|im_end|>", "\n\n\n", "/src/", "```", "#- coding: utf-8"],
            "stream": True,
            "tools": [READ_FILE],
            "parallel_tool_calls": False,
        },
        ["agent mode", "a.py", "print(1)", "read_file"],
    ),
    "Zed": (
        {
            "messages": [
                {"role": "system", "content": "You are Zed's assistant."},
                {"role": "user", "content": text("Read a.py")},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [make_call('{"path":"a.py"}')],
                },
                {"role": "tool", "content": text("print(1)"), "tool_call_id": "call_1"},
            ],
            "stream": True,
            **USAGE,
            "max_completion_tokens": 4096,
            "stop": [],
            "temperature": 1.0,
            "tool_choice": "auto",
            "parallel_tool_calls": False,
            "tools": [READ_FILE],
            "prompt_cache_key": "thread-1",
        },
        ["Zed's assistant", "print(1)", "read_file"],
    ),
    "LangChain": (
        {
            "messages": [
                {"role": "user", "content": "Hi"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [make_call("{}", index=0)],
                    "refusal": None,
                },
                {"role": "tool", "content": "", "tool_call_id": "call_1"},
            ],
            "stream": True,
            **USAGE,
            "n": 1,
            "parallel_tool_calls": False,
            "tool_choice": {"type": "function", "function": {"name": "read_file"}},
            "tools": [READ_FILE],
        },
        ["Hi", "read_file"],
    ),
    "Vercel's AI SDK and OpenCode": (
        {
            "max_tokens": 32000,
            "top_p": 1,
            "messages": [
                {"role": "system", "content": "You are opencode"},
                {"role": "user", "content": "Hi"},
                {
                    "role": "assistant",
                    "content": "",
                    "reasoning_content": "Hm.",
                    "tool_calls": [make_call("")],
                },
                {"role": "tool", "tool_call_id": "call_1", "content": "print(1)"},
            ],
            "tools": [READ_FILE],
            "tool_choice": "auto",
            "stream": True,
            **USAGE,
        },
        ["opencode", "print(1)"],
    ),
    "SillyTavern": (
        {
            "messages": [
                {"role": "system", "content": "Write Ann's reply."},
                {"role": "user", "content": "Hi", "name": "Bob"},
            ],
            "temperature": 1,
            "max_tokens": 300,
            "stream": True,
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "top_p": 1,
            "top_k": 0,
            "min_p": 0,
            "repetition_penalty": 1,
            "logit_bias": {},
            "seed": -1,
            "n": 1,
            "include_reasoning": True,
        },
        ["Ann's reply", "Hi"],
    ),
    "guidellm and aiperf": (
        {
            "messages": [{"role": "user", "content": text("Hi")}],
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            "max_completion_tokens": 16,
            "max_tokens": 16,
            "min_tokens": 16,
            "ignore_eos": True,
            "stop": None,
        },
        ["Hi"],
    ),
}


@pytest.fixture(autouse=True)
def caller(api: Api) -> None:
    description = make_description(chat_template=(HERE / "qwen_like.jinja").read_text())
    put_model(api.data_dir / "models", make_manifest("caller:latest", description=description))
    api.engine.scripts["*"] = [started(), delta("Par"), delta("is."), finished()]


async def send(api: Api, body: dict[str, Any]) -> engine_pb2.Submit:
    """The request that the engine gets; its answer reaches the client."""
    async with api.client() as client:
        if body["stream"]:
            lines = await stream_lines(client, body)
            chunks = [parse_data(line) for line in lines[:-1]]
            deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
            content = "".join(each.get("content") or "" for each in deltas)
            assert lines[-1] == "data: [DONE]"
            assert bool(body.get("stream_options")) == bool(chunks[-1].get("usage"))
        else:
            answer = (await client.post(PATH, json=body)).json()
            content = answer["choices"][0]["message"]["content"]
    assert content == "Paris."
    (submit,) = api.engine.submits
    return submit


@pytest.mark.parametrize("name", REQUESTS)
async def test_a_request_of_a_real_client(api: Api, name: str) -> None:
    body, words = REQUESTS[name]
    submit = await send(api, {"model": "caller", **body})

    prompt = "".join(piece.text for piece in submit.text.pieces)
    assert [word for word in words if word not in prompt] == []
    limit = body.get("max_completion_tokens") or body.get("max_tokens") or 0
    assert submit.stopping.max_tokens == limit
    assert submit.stopping.min_tokens == body.get("min_tokens", 0)
    assert submit.stopping.ignore_eos == body.get("ignore_eos", False)
    assert list(submit.stopping.strings) == (body.get("stop") or [])
    given = {key for key in ("temperature", "top_p", "min_p") if key in body}
    assert all(submit.sampling.HasField(key) for key in given)
    assert submit.HasField("constraint") == isinstance(body.get("tool_choice"), dict)


@pytest.mark.parametrize(
    "body",
    [
        # Continue and Cody fill in code by their own tokens, and with many stop strings.
        {
            "prompt": "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>",
            "max_tokens": 256,
            "temperature": 0.01,
            "stop": [f"stop {n}" for n in range(20)],
            "stream": True,
        },
        # llama.vscode, Tabby and Zed: the text after the place.
        {"prompt": "a", "suffix": "b", "max_tokens": 256, "temperature": 0.2, "stream": False},
    ],
    ids=["tokens of a model", "a suffix"],
)
async def test_an_editor_completes_code(api: Api, body: dict[str, Any]) -> None:
    async with api.client() as client:
        answer = await client.post("/v1/completions", json={"model": "caller", **body})

    assert answer.status_code == 200, answer.text
    (submit,) = api.engine.submits
    assert len(submit.stopping.strings) == len(body.get("stop", ()))
    assert submit.HasField("infill") == ("suffix" in body)


async def test_langchain_embeds_tokens_in_base64(api: Api) -> None:
    body = {"input": [[1, 2], [3]], "model": "caller", "encoding_format": "base64"}
    async with api.client() as client:
        answer = (await client.post("/v1/embeddings", json=body)).json()

    assert [type(item["embedding"]) for item in answer["data"]] == [str, str]
