"""A gRPC engine server with scripted answers, for faults that a real engine does not produce.

    scripts = {"slow": [queued(2), ...]}      by model name; "*" is the script of any other model
                                              the model "by prompt" has one for each prompt

The steps of a script are events without a request id, which are sent as they are, and
`asyncio.Event` objects, which the engine waits for.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import grpc
import grpc.aio
import msgspec

from protos import engine_pb2
from protos.engine_pb2_grpc import add_EngineServicer_to_server
from services.engine.front.rpc.from_proto import split_prompts
from services.shared.errors import SpindllError, to_wire
from services.shared.limits import MAX_MESSAGE_BYTES
from tests.fakes.scripted_prefixes import ScriptedPrefixes

ScriptStep = engine_pb2.Event | asyncio.Event
Context = grpc.aio.ServicerContext[Any, Any]


def queued(position: int, reason: int = engine_pb2.QUEUE_REASON_SLOTS) -> engine_pb2.Event:
    event = engine_pb2.Event()
    event.queued.position = position
    event.queued.reason = reason  # type: ignore[assignment]
    return event


def started(
    prompt_tokens: int = 7, cached_tokens: int = 3, *, uses_cuts: bool = False
) -> engine_pb2.Event:
    event = engine_pb2.Event()
    event.started.uses_cuts = uses_cuts
    event.started.prompt_tokens = prompt_tokens
    event.started.cached_tokens = cached_tokens
    return event


def delta(
    text: str, index: int = 0, logprobs: Sequence[engine_pb2.TokenLogprob] = ()
) -> engine_pb2.Event:
    return engine_pb2.Event(
        index=index, delta=engine_pb2.Delta(text=text, tokens=1, logprobs=logprobs)
    )


def finished(
    reason: str = "STOP", index: int = 0, tokens: int = 2, **fields: Any
) -> engine_pb2.Event:
    return engine_pb2.Event(
        index=index,
        finished=engine_pb2.Finished(
            reason=engine_pb2.FinishReason.Value(f"FINISH_REASON_{reason}"),
            prompt_tokens=7,
            cached_tokens=3,
            completion_tokens=tokens,
            timings=engine_pb2.Timings(
                queue_seconds=0.001, prompt_seconds=0.02, generate_seconds=0.5
            ),
            **fields,
        ),
    )


def failed(error: SpindllError) -> engine_pb2.Event:
    wire = to_wire(error)
    details = wire.pop("details", None)
    return engine_pb2.Event(
        error=engine_pb2.Error(
            **wire, details=msgspec.json.encode(details).decode() if details else ""
        )
    )


class ScriptedEngine(ScriptedPrefixes):
    """Sends the events of its scripts and records what it receives."""

    def __init__(self, scripts: Mapping[str, Sequence[ScriptStep]] | None = None) -> None:
        self.scripts: dict[str, Sequence[ScriptStep]] = dict(scripts or {})
        self.frames: list[engine_pb2.ClientFrame] = []
        self.submits: list[engine_pb2.Submit] = []  # one for each prompt
        self.cancels: list[int] = []
        self.calls: list[Any] = []
        self.sessions = 0
        self.is_accepting = True
        self.context_length = 256
        self.ranks_in_probabilities = False
        self.embed_hook: Callable[[engine_pb2.EmbedRequest, Context], Awaitable[Any]] | None = None
        self.problems: list[str] = []
        self.lacks_required_gpu = False
        self.cache_write = "always"
        self.unary_error: SpindllError | None = None
        self.address = ""
        self._changed = asyncio.Condition()
        self._server: grpc.aio.Server | None = None
        self._break_events: list[asyncio.Event] = []

    async def start(self, address: str = "127.0.0.1:0") -> None:
        # As the real engine.
        self._server = grpc.aio.server(
            options=[("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)]
        )
        add_EngineServicer_to_server(self, self._server)
        host, _, _ = address.rpartition(":")
        self.address = f"{host}:{self._server.add_insecure_port(address)}"
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0)

    def break_sessions(self) -> None:
        """End the open streams with an error, as a crash of the engine would."""
        for broken in self._break_events:
            broken.set()
        self._break_events.clear()

    async def wait_until(self, condition: Any) -> None:
        """Wait until `condition()` is true of what was received."""
        async with self._changed:
            await asyncio.wait_for(self._changed.wait_for(condition), 10)

    async def Session(  # type: ignore[override]  # noqa: N802
        self, request_iterator: AsyncIterator[engine_pb2.ClientFrame], context: Context
    ) -> None:
        self.sessions += 1
        outbox: asyncio.Queue[engine_pb2.EngineFrame] = asyncio.Queue()
        broken = asyncio.Event()
        self._break_events.append(broken)
        tasks = [
            asyncio.create_task(self._receive(request_iterator, outbox)),
            asyncio.create_task(_send(context, outbox)),
            asyncio.create_task(broken.wait()),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        if broken.is_set():
            await context.abort(grpc.StatusCode.UNAVAILABLE, "broken, at ipv4:127.0.0.1:1")

    async def _receive(
        self,
        frames: AsyncIterator[engine_pb2.ClientFrame],
        outbox: asyncio.Queue[engine_pb2.EngineFrame],
    ) -> None:
        tasks_by_request: dict[int, asyncio.Task[None]] = {}
        async for frame in frames:
            submits = [each for submit in frame.submits for each in split_prompts(submit)]
            async with self._changed:
                self.frames.append(frame)
                self.submits.extend(submits)
                self.cancels.extend(frame.cancels)
                self._changed.notify_all()
            for submit in submits:
                tasks_by_request[submit.request_id] = asyncio.create_task(
                    self._play(submit, outbox)
                )
            for request_id in frame.cancels:
                tasks_by_request[request_id].cancel()

    async def _play(
        self, submit: engine_pb2.Submit, outbox: asyncio.Queue[engine_pb2.EngineFrame]
    ) -> None:
        name = submit.text.pieces[0].text if submit.model == "by prompt" else submit.model
        for step in self.scripts.get(name, self.scripts.get("*", ())):
            if isinstance(step, asyncio.Event):
                await step.wait()
                continue
            event = engine_pb2.Event()
            event.CopyFrom(step)
            event.request_id = submit.request_id
            await outbox.put(engine_pb2.EngineFrame(events=[event]))

    async def _unary(self, request: Any, context: Context, answer: Any) -> Any:
        self.calls.append(request)
        if self.unary_error is not None:
            wire = msgspec.json.encode(to_wire(self.unary_error)).decode()
            context.set_trailing_metadata((("spindll-error", quote(wire)),))
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "see spindll-error")
        return answer

    async def Load(self, request: engine_pb2.LoadRequest, context: Context) -> Any:  # noqa: N802
        answer = engine_pb2.LoadResponse(
            already_loaded=False, model=engine_pb2.LoadedModel(name=request.model, pid=77)
        )
        return await self._unary(request, context, answer)

    async def Unload(self, request: engine_pb2.UnloadRequest, context: Context) -> Any:  # noqa: N802
        return await self._unary(request, context, engine_pb2.UnloadResponse(was_loaded=True))

    async def Loaded(self, request: engine_pb2.LoadedRequest, context: Context) -> Any:  # noqa: N802
        model = engine_pb2.LoadedModel(
            name="tiny:latest",
            state=engine_pb2.MODEL_STATE_READY,
            memory_bytes=2**33,
            running=1,
            queued=2,
            pid=77,
        )
        device = engine_pb2.DeviceMemory(name="host", kind="host", total_bytes=10, free_bytes=4)
        answer = engine_pb2.LoadedResponse(models=[model], devices=[device], budget_bytes=2**34)
        return await self._unary(request, context, answer)

    async def Plan(self, request: engine_pb2.PlanRequest, context: Context) -> Any:  # noqa: N802
        answer = engine_pb2.PlanResponse(
            action=engine_pb2.PLAN_ACTION_EVICT, evict=["other:latest"], explanation="makes room"
        )
        return await self._unary(request, context, answer)

    async def Tokenize(self, request: engine_pb2.TokenizeRequest, context: Context) -> Any:  # noqa: N802
        return await self._unary(request, context, engine_pb2.TokenizeResponse(ids=[1]))

    async def Detokenize(  # noqa: N802
        self, request: engine_pb2.DetokenizeRequest, context: Context
    ) -> Any:
        """The text is the ids."""
        text = " ".join(map(str, request.ids))
        return await self._unary(request, context, engine_pb2.DetokenizeResponse(text=text))

    async def Embed(self, request: engine_pb2.EmbedRequest, context: Context) -> Any:  # noqa: N802
        """Each vector is (3, 4, its number), cut to the dimensions; each input has 5 tokens."""
        if self.embed_hook is not None:
            return await self.embed_hook(request, context)
        count, size = len(request.inputs), request.dimensions or 3
        rows = [(3.0, 4.0, float(number))[:size] for number in range(count)]
        vectors = b"".join(struct.pack(f"<{size}f", *row) for row in rows)
        answer = engine_pb2.EmbedResponse(vectors=vectors, dimensions=size, tokens=[5] * count)
        return await self._unary(request, context, answer)

    async def Rerank(self, request: engine_pb2.RerankRequest, context: Context) -> Any:  # noqa: N802
        """The score of a document is its length, less 3; each pair has 7 tokens."""
        answer = engine_pb2.RerankResponse(
            scores=[len(document) - 3 for document in request.documents],
            is_probability=self.ranks_in_probabilities,
            tokens=[7] * len(request.documents),
        )
        return await self._unary(request, context, answer)

    async def ContextLengths(  # noqa: N802
        self, request: engine_pb2.ContextLengthsRequest, context: Context
    ) -> Any:
        lengths = dict.fromkeys(request.models, self.context_length)
        answer = engine_pb2.ContextLengthsResponse(context_lengths=lengths)
        return await self._unary(request, context, answer)

    async def CacheStatus(  # noqa: N802
        self, request: engine_pb2.CacheStatusRequest, context: Context
    ) -> Any:
        tier = engine_pb2.CacheTier(
            name="disk",
            budget_bytes=10_000_000_000,
            bytes=2_500_000,
            entries=7,
            hits=3,
            stored=9,
            rejected={"authentication": 1},
            not_written="no space",
            saved_seconds=79.5,
            read_bytes=1_500_000,
            stored_bytes=3_500_000,
        )
        return await self._unary(
            request, context, engine_pb2.CacheStatusResponse(tiers=[tier], write=self.cache_write)
        )

    async def DeleteCache(  # noqa: N802
        self, request: engine_pb2.DeleteCacheRequest, context: Context
    ) -> Any:
        answer = engine_pb2.DeleteCacheResponse(entries=2, bytes=5_000_000)
        return await self._unary(request, context, answer)

    async def RotateCacheKeys(  # noqa: N802
        self, request: engine_pb2.RotateCacheKeysRequest, context: Context
    ) -> Any:
        return await self._unary(request, context, engine_pb2.RotateCacheKeysResponse())

    async def Health(self, request: engine_pb2.HealthRequest, context: Context) -> Any:  # noqa: N802
        return engine_pb2.HealthResponse(
            accepting=self.is_accepting,
            version="0",
            problems=self.problems,
            lacks_required_gpu=self.lacks_required_gpu,
        )


async def _send(context: Context, outbox: asyncio.Queue[engine_pb2.EngineFrame]) -> None:
    while True:
        await context.write(await outbox.get())
