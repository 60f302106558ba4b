"""Embed and Rerank through the engine's gRPC service: with a scripted runner, and with llama.cpp."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec
import pytest
from grpc import aio

from protos import engine_pb2 as pb
from services.engine.front.process.launcher import RUNNER_COMMAND
from services.shared.limits import MAX_EMBEDDING_TEXTS
from services.shared.store.manifest import Capability, Description
from tests.conftest import TINY_GGUF
from tests.engine.engine_server import (
    RunningFront,
    add_model,
    add_scripted_model,
    eventually,
    running_front,
)

REAL: dict[str, Any] = {"context_length": 1024, "threads": 1, "max_sequences": 4}


def inputs(*texts: str) -> list[pb.EmbedInput]:
    return [pb.EmbedInput(text=text) for text in texts]


def read_rows(answer: pb.EmbedResponse) -> list[Sequence[float]]:
    size = 4 * answer.dimensions
    parts = [answer.vectors[n : n + size] for n in range(0, len(answer.vectors), size)]
    return [struct.unpack(f"<{answer.dimensions}f", part) for part in parts]


async def refused(call: Any) -> dict[str, Any]:
    """Our own error of a call that fails."""
    with pytest.raises(aio.AioRpcError) as error:
        await call
    metadata = dict(error.value.trailing_metadata() or ())
    decoded: dict[str, Any] = msgspec.json.decode(unquote(str(metadata["spindll-error"])))
    return decoded


async def count_busy(front: RunningFront) -> int:
    (model,) = front.engine.server._pool.models
    return model.running_count


async def test_vectors_come_in_the_order_of_the_inputs(tmp_path: Path) -> None:
    add_scripted_model(tmp_path, "words")
    async with running_front(tmp_path) as front:
        answer = await front.stub.Embed(pb.EmbedRequest(model="words", inputs=inputs("a b", "c")))
        (model,) = (await front.loaded()).models
        ranks = await front.stub.Rerank(
            pb.RerankRequest(model="words", query="q", documents=["abc", "ab"])
        )

    assert read_rows(answer) == [(3.0,), (1.0,)]
    assert list(answer.tokens) == [2, 1]
    assert list(ranks.scores) == [3.0, 2.0]
    assert model.running == 0


async def test_the_memory_of_a_context_that_is_added_later_is_counted(tmp_path: Path) -> None:
    add_scripted_model(tmp_path, "words")
    async with running_front(tmp_path) as front:
        await front.client().ask("words", "one")
        before = (await front.loaded()).models[0].memory_bytes
        await front.stub.Embed(pb.EmbedRequest(model="words", inputs=inputs("a")))
        after = (await front.loaded()).models[0].memory_bytes

    assert after - before == 1 << 20


async def test_a_call_that_is_cancelled_frees_the_model(tmp_path: Path) -> None:
    add_scripted_model(tmp_path, "words")
    async with running_front(tmp_path) as front:
        await front.client().ask("words", "one")
        call = front.stub.Embed(pb.EmbedRequest(model="words", inputs=inputs("!wait")))
        waiting = asyncio.ensure_future(_swallow(call))
        await eventually(lambda: _is(front, 1))
        call.cancel()
        await eventually(lambda: _is(front, 0))
        await waiting


async def test_a_runner_that_is_unloaded_by_force_fails_its_embeddings(tmp_path: Path) -> None:
    add_scripted_model(tmp_path, "words")
    async with running_front(tmp_path) as front:
        await front.client().ask("words", "one")
        call = asyncio.ensure_future(
            refused(front.stub.Embed(pb.EmbedRequest(model="words", inputs=inputs("!wait"))))
        )
        await eventually(lambda: _is(front, 1))
        await front.stub.Unload(pb.UnloadRequest(model="words", force=True))
        error = await call

    assert error["code"] == "engine_unavailable"


@pytest.mark.parametrize("count", [0, MAX_EMBEDDING_TEXTS + 1])
async def test_the_number_of_texts_is_bounded(tmp_path: Path, count: int) -> None:
    add_scripted_model(tmp_path, "words")
    async with running_front(tmp_path) as front:
        embed = pb.EmbedRequest(model="words", inputs=inputs(*["a"] * count))
        first = await refused(front.stub.Embed(embed))
        rerank = pb.RerankRequest(model="words", query="q", documents=["a"] * count)
        second = await refused(front.stub.Rerank(rerank))

    assert (first["code"], first["param"]) == ("invalid_request", "input")
    assert (second["code"], second["param"]) == ("invalid_request", "documents")


async def test_a_token_id_that_no_runner_can_have_is_refused(tmp_path: Path) -> None:
    add_scripted_model(tmp_path, "words")
    async with running_front(tmp_path) as front:
        tokens = [pb.EmbedInput(tokens=pb.PromptTokens(ids=[1 << 31]))]
        error = await refused(front.stub.Embed(pb.EmbedRequest(model="words", inputs=tokens)))

    assert error["param"] == "input"


async def test_a_chat_model_and_an_encoder_answer_at_the_same_time(
    tmp_path: Path, pooling_model: Callable[[str], Path]
) -> None:
    add_model(tmp_path, "tiny", TINY_GGUF.read_bytes())
    description = Description(
        format="gguf", architecture="bert", capabilities=(Capability.EMBEDDINGS,)
    )
    encoder = pooling_model("bert-mean").read_bytes()
    add_model(tmp_path, "encoder", encoder, description=description)
    async with running_front(tmp_path, runner=RUNNER_COMMAND, **REAL) as front:
        chat = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
        (text, _), answer, both = await asyncio.gather(
            front.client().ask("tiny", chat, sampling=pb.Sampling(temperature=0)),
            front.stub.Embed(pb.EmbedRequest(model="encoder", inputs=inputs("paris", "rome"))),
            front.stub.Embed(pb.EmbedRequest(model="tiny", inputs=inputs("paris"))),
        )
        models = {model.name: model for model in (await front.loaded()).models}
        _, refusal = await front.client().ask("encoder", "hello")

    assert text.strip() == "Paris."
    assert (answer.dimensions, both.dimensions) == (64, 128)
    assert models["encoder:latest"].context_length == 64
    assert "it is an encoder" in refusal.error.message
    assert refusal.error.code == "invalid_request"


async def _swallow(call: Any) -> None:
    with pytest.raises(asyncio.CancelledError):
        await call


async def _is(front: RunningFront, busy: int) -> bool:
    return await count_busy(front) == busy
