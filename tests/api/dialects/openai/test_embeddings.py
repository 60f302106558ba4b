"""POST /v1/embeddings over real HTTP: with a scripted engine, and with llama.cpp."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from protos import engine_pb2
from services.engine.front.process.launcher import RUNNER_COMMAND
from services.shared.errors import ContextLengthExceeded
from services.shared.store.manifest import Capability, Description
from tests.api.conftest import Api, make_description, make_manifest, put_model, running_api
from tests.conftest import TINY_GGUF
from tests.engine.engine_server import add_model, running_front
from tests.fakes.scripted_engine import ScriptedEngine

PATH = "/v1/embeddings"


async def post(api: Api, **body: Any) -> httpx.Response:
    async with api.client() as client:
        return await client.post(PATH, json={"model": "tiny", "input": "a", **body})


def client_of(api: Api) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{api.url}/v1", api_key=api.user_key, max_retries=0)


async def test_the_answer_has_the_shape_of_openais(api: Api) -> None:
    answer = (await post(api, input=["one", "two"])).json()

    assert answer == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [3.0, 4.0, 0.0]},
            {"object": "embedding", "index": 1, "embedding": [3.0, 4.0, 1.0]},
        ],
        "model": "tiny",
        "usage": {"prompt_tokens": 10, "total_tokens": 10},
    }


@pytest.mark.parametrize("encoding", ["float", "base64"])
async def test_the_official_client_reads_both_encodings(api: Api, encoding: Any) -> None:
    async with client_of(api) as client:
        default = await client.embeddings.create(model="tiny", input="a")  # asks for base64
        chosen = await client.embeddings.create(
            model="tiny", input="a", encoding_format=encoding, user="someone"
        )

    assert default.data[0].embedding == [3.0, 4.0, 0.0]
    value: Any = chosen.data[0].embedding
    if encoding == "base64":
        value = list(struct.unpack("<3f", base64.b64decode(value)))
    assert value == [3.0, 4.0, 0.0]
    assert default.usage.total_tokens == 5


@pytest.mark.parametrize(
    ("given", "texts", "tokens"),
    [
        ("one", ["one"], []),
        (["one", "two"], ["one", "two"], []),
        ([1, 2], [], [[1, 2]]),
        ([[1, 2], [3]], [], [[1, 2], [3]]),
        (["one", [3]], ["one"], [[3]]),
    ],
    ids=["text", "texts", "tokens", "token lists", "mixed"],
)
async def test_inputs_are_texts_or_tokens(
    api: Api, given: Any, texts: list[str], tokens: list[list[int]]
) -> None:
    answer = await post(api, input=given, truncate=True)
    (call,) = api.engine.calls

    assert answer.status_code == 200
    assert [text.text for text in call.inputs if text.WhichOneof("kind") == "text"] == texts
    sent = [list(t.tokens.ids) for t in call.inputs if t.WhichOneof("kind") == "tokens"]
    assert sent == tokens
    assert (call.model, call.truncate, call.raw) == ("tiny:latest", True, False)
    assert call.principal


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": [-1]}, "input"),
        ({"input": [5, True]}, "input[1]"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": "a" * (8 << 20) + "a"}, "input"),
        ({"dimensions": 0}, "dimensions"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"model": ""}, "model"),
    ],
    ids=["empty", "none", "no tokens", "one empty", "negative", "truth", "many", "long",
         "no dimensions", "encoding", "no model"],
)  # fmt: skip
async def test_what_cannot_be_embedded_is_a_400_that_names_the_field(
    api: Api, body: dict[str, Any], param: str
) -> None:
    answer = await post(api, **body)

    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith(param)
    assert not api.engine.calls


async def test_an_unknown_model_is_404(api: Api) -> None:
    answer = await post(api, model="unknown")

    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


async def test_a_text_that_is_too_long_is_a_400_with_its_lengths(api: Api) -> None:
    api.engine.unary_error = ContextLengthExceeded(
        "too long", param="input", details={"prompt_tokens": 70, "context_length": 64}
    )
    async with client_of(api) as client:
        with pytest.raises(openai.BadRequestError) as error:
            await client.embeddings.create(model="tiny", input="a")

    assert (error.value.code, error.value.param) == ("context_length_exceeded", "input")
    body: Any = error.value.body
    assert body["context_length"] == 64


@pytest.mark.parametrize(
    ("description", "dimensions", "status"),
    [
        ({"architecture": "bert", "embedding_length": 3}, 2, 400),
        ({"architecture": "bert", "embedding_length": 3}, 3, 200),
        ({"architecture": "qwen3", "embedding_length": 3}, 2, 200),
        ({"architecture": "qwen3", "embedding_length": 3, "capabilities": ()}, 2, 400),
    ],
    ids=["not trained", "all of them", "trained", "a chat model of that architecture"],
)
async def test_shorter_vectors_come_from_models_that_were_trained_for_them(
    api: Api, description: dict[str, Any], dimensions: int, status: int
) -> None:
    changes = {"capabilities": (Capability.EMBEDDINGS,), **description}
    model = make_manifest("embedder:latest", description=make_description(**changes))
    put_model(api.data_dir / "models", model)
    answer = await post(api, model="embedder", dimensions=dimensions)

    assert answer.status_code == status
    if status == 400:
        assert answer.json()["error"]["param"] == "dimensions"
    else:
        assert len(answer.json()["data"][0]["embedding"]) == dimensions
        assert api.engine.calls[0].dimensions == dimensions


async def test_a_client_that_leaves_ends_the_work_of_the_engine(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def embed(request: engine_pb2.EmbedRequest, context: Any) -> Any:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    monkeypatch.setattr(api.engine, "embed_hook", embed)
    async with api.client() as client:
        call = asyncio.create_task(client.post(PATH, json={"model": "tiny", "input": "a"}))
        await asyncio.wait_for(begun.wait(), 10)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

    await asyncio.wait_for(cancelled.wait(), 10)


async def test_the_official_client_embeds_with_a_real_encoder_beside_a_real_chat(
    tmp_path: Path, redis_url: str, pooling_model: Callable[[str], Path]
) -> None:
    data = tmp_path / "data"
    add_model(data, "tiny", TINY_GGUF.read_bytes(), description=make_description())
    embedder = Description(
        format="gguf",
        architecture="bert",
        context_length=64,
        embedding_length=64,
        capabilities=(Capability.EMBEDDINGS,),
    )
    add_model(data, "embedder", pooling_model("bert-cls").read_bytes(), description=embedder)
    settings: dict[str, Any] = {"context_length": 512, "threads": 1, "max_sequences": 4}
    async with running_front(data, runner=RUNNER_COMMAND, **settings) as front:
        engine = ScriptedEngine()
        engine.address = front.address
        async with running_api(tmp_path, redis_url, engine) as api, client_of(api) as client:
            chat, vectors = await asyncio.gather(
                client.completions.create(model="tiny", prompt="One, two,", temperature=0),
                client.embeddings.create(model="embedder", input=["paris", "rome"]),
            )
            with pytest.raises(openai.BadRequestError, match="maximum context length is 64"):
                await client.embeddings.create(model="embedder", input="a " * 100)
            with pytest.raises(openai.BadRequestError, match="it is an encoder"):
                await client.completions.create(model="embedder", prompt="a")

    assert chat.choices[0].text
    assert [len(entry.embedding) for entry in vectors.data] == [64] * 2
    for entry in vectors.data:
        assert sum(x * x for x in entry.embedding) == pytest.approx(1, abs=1e-5)
    assert vectors.usage.prompt_tokens == 3 + 3
