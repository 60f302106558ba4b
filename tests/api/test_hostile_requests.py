"""What one user key can do to a worker: memory of its own process, and other people's streams.

Each attack took hundreds of MiB, or broke every stream of the worker.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from protos import engine_pb2
from services.shared.limits import MAX_CONSTRAINT_CHARS
from tests.api.conftest import make_description, make_manifest, put_model
from tests.api.process.service import Service, running_with_model
from tests.fakes.scripted_engine import ScriptedEngine, delta, finished

MIB = 1 << 20
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def chat(content: str, **fields: Any) -> bytes:
    message = {"role": "user", "content": content}
    return json.dumps({"model": "tiny", "messages": [message], **fields}).encode()


def repeat(item: str, count: int) -> str:
    return ",".join([item] * count)


ATTACKS: dict[str, tuple[str, bytes, int]] = {
    "every item of a list is wrong": (
        COMPLETIONS,
        f'{{"model":"tiny","prompt":[[{repeat(chr(34) + "a" + chr(34), 300_000)}]]}}'.encode(),
        400,
    ),
    "every message is wrong": (
        CHAT,
        f'{{"model":"tiny","messages":[{repeat("{}", 300_000)}]}}'.encode(),
        400,
    ),
    "every bias is wrong": (
        CHAT,
        chat("hi", logit_bias={f"a{n}": 1 for n in range(150_000)}),
        400,
    ),
    "many empty lists": (CHAT, chat("hi", chat_template_kwargs={"a": [[]] * 1_000_000}), 400),
    "many empty lists in a field that is ignored": (CHAT, chat("hi", zzz=[[]] * 1_000_000), 400),
    "a call with many values": (
        CHAT,
        json.dumps(
            {
                "model": "tiny",
                "messages": [
                    {"role": "user", "content": "hi"},
                    {
                        "role": "assistant",
                        "tool_calls": [
                            {
                                "function": {
                                    "name": "f",
                                    "arguments": f'{{"a":[{repeat("[]", 2_000_000)}]}}',
                                }
                            }
                        ],
                    },
                ],
            }
        ).encode(),
        400,
    ),
    "control tokens and nothing else": (CHAT, chat("<|im_end|>" * 200_000), 200),
    "control tokens one by one": (CHAT, chat("<|im_end|>x" * 200_000), 200),
    "tokens that have to be cut in two": (CHAT, chat("<tag>" * 200_000, model="tags"), 400),
    "one large schema for many prompts": (
        COMPLETIONS,
        json.dumps(
            {
                "model": "tiny",
                "prompt": ["a"] * 64,
                "json_schema": {"type": "object", "description": "x" * MIB},
            }
        ).encode(),
        400,
    ),
    "the largest schema for many prompts": (
        COMPLETIONS,
        json.dumps(
            {
                "model": "tiny",
                "prompt": ["a"] * 64,
                "json_schema": {"const": 1, "description": "x" * (MAX_CONSTRAINT_CHARS - 64)},
            }
        ).encode(),
        200,
    ),
    "a prompt too long": (COMPLETIONS, b'{"model":"tiny","prompt":"%s"}' % (b"x" * 24 * MIB), 400),
    "a text of wide characters": (CHAT, chat("\U0001f600" * MIB + "x" * 12 * MIB), 400),
}


class Worker:
    """The process of the only worker of a service."""

    def __init__(self, service: Service) -> None:
        (process,) = service.workers()
        self._proc = Path(f"/proc/{process.pid}")
        self.forget_peak()

    def forget_peak(self) -> None:
        """The memory of now becomes the peak, over which `grown_mib` counts."""
        (self._proc / "clear_refs").write_text("5")
        self._before = self._read_peak()

    def grown_mib(self) -> float:
        return (self._read_peak() - self._before) / 1024

    def _read_peak(self) -> int:
        lines = (self._proc / "status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


@pytest.fixture
async def service(tmp_path: Path, redis_url: str, engine: ScriptedEngine) -> AsyncIterator[Service]:
    put_model(tmp_path / "models", make_manifest("innocent:latest"))
    tags = make_description(user_defined_tokens=("<tag>",))
    put_model(tmp_path / "models", make_manifest("tags:latest", description=tags))
    async with running_with_model(tmp_path, redis_url, engine, api_workers=1) as started:
        yield started


@asynccontextmanager
async def innocent_stream(service: Service, engine: ScriptedEngine) -> AsyncIterator[None]:
    """A stream that runs during the block, and must end well after it."""
    gate = asyncio.Event()
    engine.scripts["innocent:latest"] = [delta("Par"), gate, delta("is."), finished()]
    body = {"model": "innocent", "prompt": "x", "stream": True}
    async with (
        httpx.AsyncClient(base_url=service.url, headers=service.headers, timeout=60) as client,
        client.stream("POST", COMPLETIONS, json=body) as answer,
    ):
        lines = answer.aiter_lines()
        assert "Par" in await anext(lines)
        yield
        gate.set()
        rest = [line async for line in lines]
    assert "is." in "".join(rest)
    assert "data: [DONE]" in rest


async def test_a_hostile_request_costs_little_memory_and_nobodys_stream(
    service: Service, engine: ScriptedEngine
) -> None:
    engine.scripts["*"] = [finished()]
    grown = {}
    async with (
        httpx.AsyncClient(base_url=service.url, headers=service.headers, timeout=60) as client,
        innocent_stream(service, engine),
    ):
        await client.post(CHAT, content=chat("warm up"))
        worker, whole = Worker(service), Worker(service)
        for name, (path, body, status) in ATTACKS.items():
            worker.forget_peak()
            answer = await client.post(path, content=body)
            assert (answer.status_code, name) == (status, name), answer.text[:200]
            grown[name] = worker.grown_mib()
            # What one leaves behind is used by the next: the allocator keeps some of it for a time.
            grown[f"all up to: {name}"] = whole.grown_mib() / 2.5

    assert {name: mib for name, mib in grown.items() if mib > 64} == {}
    assert engine.sessions == 1


async def test_twenty_hostile_requests_at_once_cost_little_memory(
    service: Service, engine: ScriptedEngine
) -> None:
    engine.scripts["*"] = [finished()]
    largest = b'{"model":"tiny","prompt":"%s"}' % (b"x" * 24 * MIB)
    async with (
        httpx.AsyncClient(base_url=service.url, headers=service.headers, timeout=60) as client,
        innocent_stream(service, engine),
    ):
        await client.post(CHAT, content=chat("warm up"))
        worker = Worker(service)
        answers = await asyncio.gather(
            *(client.post(COMPLETIONS, content=largest) for _ in range(20))
        )
        grown_mib = worker.grown_mib()

    statuses = {answer.status_code for answer in answers}
    assert statuses <= {400, 503}
    assert 503 in statuses
    assert all("retry-after" in a.headers for a in answers if a.status_code == 503)
    assert grown_mib <= 256


async def test_the_numbers_of_very_many_vectors_are_sent_in_parts(
    service: Service, engine: ScriptedEngine
) -> None:
    async def embed(request: engine_pb2.EmbedRequest, _: Any) -> engine_pb2.EmbedResponse:
        count, size = len(request.inputs), 4096
        vectors = struct.pack("<f", 0.123456789) * (count * size)
        return engine_pb2.EmbedResponse(vectors=vectors, dimensions=size, tokens=[1] * count)

    engine.embed_hook = embed
    body = {"model": "tiny", "input": ["a"] * 2048}
    async with httpx.AsyncClient(
        base_url=service.url, headers=service.headers, timeout=60
    ) as client:
        worker = Worker(service)
        async with client.stream("POST", "/v1/embeddings", json=body) as answer:
            size = 0
            async for part in answer.aiter_raw():
                size += len(part)
        grown_mib = worker.grown_mib()

    assert size > 100 * MIB
    assert grown_mib < 128  # the vectors alone have 32, and arrive in a message
