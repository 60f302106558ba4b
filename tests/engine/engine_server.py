"""A whole engine front on its own socket, models in a real store, and a client of one session."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
import zlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from grpc import aio

from protos import engine_pb2 as pb
from protos.engine_pb2_grpc import EngineStub
from services.engine.front.build import Engine, build_engine, read_model_settings_by_name
from services.engine.front.gpu_check import GpuCheck
from services.engine.settings import EngineSettings
from services.shared.store.manifest import Description, FileRole, Manifest, StoredFile
from services.shared.store.model_store import ModelStore
from tests.fakes.scripted_runner import Script

SCRIPTED_RUNNER = (sys.executable, "-m", "tests.fakes.scripted_runner")
WAIT_SECONDS = 30.0
CHANNEL_OPTIONS = (("grpc.max_receive_message_length", 64 << 20),)  # as the api's


def add_scripted_model(
    data: Path, name: str, script: Script | None = None, **changes: object
) -> Manifest:
    """Store a model for the scripted runner. Each name gets a model with its own digest."""
    content = msgspec.json.encode(script or Script()) + b" " * (zlib.crc32(name.encode()) % 9973)
    return add_model(data, name, content, **changes)


def add_model(data: Path, name: str, content: bytes, **changes: object) -> Manifest:
    """Store a model that consists of one file with this content."""
    store = ModelStore(data / "models")
    with store.lease() as lease:
        blob = store.blobs.add_bytes(content)
        lease.add(blob.digest)
        manifest = msgspec.structs.replace(
            Manifest(
                name=f"{name}:latest",
                source="a test",
                created_at=0.0,
                files=(
                    StoredFile(
                        role=FileRole.MODEL,
                        path="model.gguf",
                        digest=blob.digest,
                        size_bytes=blob.size_bytes,
                    ),
                ),
                description=Description(format="gguf", architecture="llama"),
            ),
            **changes,
        )
        store.put(manifest)
    return store.resolve(name)


class SessionClient:
    """One session, as an api worker opens it. Collects the events by request."""

    def __init__(self, stub: Any) -> None:
        self._call = stub.Session()
        self._events: dict[int, asyncio.Queue[pb.Event]] = {}
        self._reader = asyncio.create_task(self._read())
        self._last_id = 0

    async def submit(
        self, model: str, text: str, *, cuts: Sequence[int] = (), **fields: object
    ) -> int:
        self._last_id += 1
        message = pb.Submit(
            request_id=self._last_id,
            model=model,
            text=pb.PromptText(pieces=[pb.TextPiece(text=text)], cuts=cuts),
            **fields,  # type: ignore[arg-type]
        )
        self._events[self._last_id] = asyncio.Queue()
        await self._call.write(pb.ClientFrame(submits=[message]))
        return self._last_id

    async def submit_together(self, model: str, first: str, *others: str) -> list[int]:
        """Several prompts in one submit."""
        ids = range(self._last_id + 1, self._last_id + 2 + len(others))
        self._events.update((request_id, asyncio.Queue()) for request_id in ids)
        further = [
            pb.FurtherPrompt(
                request_id=request_id, text=pb.PromptText(pieces=[pb.TextPiece(text=text)])
            )
            for request_id, text in zip(ids[1:], others, strict=True)
        ]
        await self.submit(model, first, further_prompts=further)
        self._last_id = ids[-1]
        return list(ids)

    async def cancel(self, request_id: int) -> None:
        await self._call.write(pb.ClientFrame(cancels=[request_id]))

    async def event(self, request_id: int) -> pb.Event:
        return await asyncio.wait_for(self._events[request_id].get(), WAIT_SECONDS)

    async def until(self, request_id: int, kind: str) -> pb.Event:
        while (event := await self.event(request_id)).WhichOneof("kind") != kind:
            assert event.WhichOneof("kind") not in ("finished", "error"), event
        return event

    async def answer(self, request_id: int) -> tuple[str, pb.Event]:
        """The whole text of an answer, and its last event."""
        text = ""
        while True:
            event = await self.event(request_id)
            kind = event.WhichOneof("kind")
            if kind == "delta":
                text += event.delta.text
            elif kind in ("finished", "error"):
                return text, event

    async def ask(
        self, model: str, text: str, *, cuts: Sequence[int] = (), **fields: object
    ) -> tuple[str, pb.Event]:
        return await self.answer(await self.submit(model, text, cuts=cuts, **fields))

    async def done_writing(self) -> None:
        await self._call.done_writing()

    async def wait_for_end(self) -> None:
        """Wait until the stream has ended."""
        await asyncio.wait_for(self._reader, WAIT_SECONDS)

    async def close(self) -> None:
        self._call.cancel()
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)

    async def _read(self) -> None:
        async for frame in self._call:
            for event in frame.events:
                self._events[event.request_id].put_nowait(event)


class RunningFront:
    """A front that runs in this process: its stub, its address, and its parts for inspection."""

    def __init__(self, engine: Engine, stub: Any, address: str) -> None:
        self.engine = engine
        self.stub = stub
        self.address = address
        self._clients: list[SessionClient] = []

    def client(self) -> SessionClient:
        client = SessionClient(self.stub)
        self._clients.append(client)
        return client

    async def loaded(self) -> pb.LoadedResponse:
        loaded: pb.LoadedResponse = await self.stub.Loaded(pb.LoadedRequest())
        return loaded

    async def close_clients(self) -> None:
        for client in self._clients:
            await client.close()


@contextlib.asynccontextmanager
async def running_front(
    data: Path,
    *,
    runner: tuple[str, ...] = SCRIPTED_RUNNER,
    gpu: GpuCheck | None = None,
    **settings: Any,
) -> AsyncIterator[RunningFront]:
    """A front that runs until the block ends. Every runner has ended after the block."""
    # Not under tmp_path: the path of a unix socket must be short.
    with tempfile.TemporaryDirectory(prefix="spd-") as folder:
        address = f"unix:{folder}/engine.sock"
        engine_settings = EngineSettings(data_dir=data, engine_address=address, **settings)
        engine = build_engine(
            engine_settings, read_model_settings_by_name(engine_settings), runner=runner, gpu=gpu
        )
        await engine.server.listen(address)
        async with aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
            front = RunningFront(engine, EngineStub(channel), address)
            try:
                yield front
            finally:
                await front.close_clients()
                await engine.stop(drain_seconds=0)


async def eventually(check: object, *, seconds: float = WAIT_SECONDS) -> None:
    """Poll until `check()` is true; it may be a coroutine function."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        result = check()  # type: ignore[operator]
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return
        assert asyncio.get_running_loop().time() < deadline, f"{check} never became true"
        await asyncio.sleep(0.02)
