"""The api's side of engine.proto: one Session stream a worker, and the unary calls beside it.

Everything of a worker's requests travels in frames of one stream: three times cheaper than a stream
a request. One task writes it (two would kill the call), one reads it and drops each event into its
request's mailbox. When the stream breaks, every request on it fails once with EngineUnavailable,
and the session is opened anew, with back-off, for the next ones.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote

import grpc
import grpc.aio
import msgspec

from protos import engine_pb2
from protos.engine_pb2_grpc import EngineStub
from services.api.clients.generation_stream import Generation
from services.shared.errors import (
    DeadlineExceeded,
    EngineUnavailable,
    InternalError,
    SpindllError,
    from_wire,
)

if TYPE_CHECKING:  # the stub of the stubs
    from protos.engine_pb2_grpc import EngineAsyncStub

logger = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 64 << 20
_CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A frozen engine must not hold its clients for ever: ping, and give up without an answer.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # what the keep-alive really waits for; 60 s else
    ("grpc.http2.max_pings_without_data", 0),
    # gRPC's own back-off grows to two minutes; ours (below) decides.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Never through a proxy: the engine is next door.
    ("grpc.enable_http_proxy", 0),
)
_FIRST_RETRY_SECONDS = 0.1
_MAX_RETRY_SECONDS = 2.0
_UNARY_SECONDS = 10.0

R = TypeVar("R")
_Session = grpc.aio.StreamStreamCall[engine_pb2.ClientFrame, engine_pb2.EngineFrame]


class EngineClient:
    """One engine, for one worker. Event loop only; `start` and `close` once each."""

    def __init__(
        self,
        address: str,
        *,
        connect_wait_seconds: float = 3.0,
        load_timeout_seconds: float = 900.0,
    ) -> None:
        self._address = address
        self._connect_wait_seconds = connect_wait_seconds
        self._load_timeout_seconds = load_timeout_seconds
        self._ids = itertools.count(1)
        self._generations: dict[int, Generation] = {}
        self._outbox = engine_pb2.ClientFrame()
        self._outbox_filled = asyncio.Event()
        self._connected = asyncio.Event()
        self._channel: grpc.aio.Channel | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the channel and keep a session on it, whether or not the engine is there yet."""
        self._channel = grpc.aio.insecure_channel(self._address, options=_CHANNEL_OPTIONS)
        self._keeper = asyncio.create_task(self._keep_session(), name="engine session")

    async def close(self) -> None:
        """End the session; requests still on it fail."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._channel is not None:
            await self._channel.close()

    @property
    def is_connected(self) -> bool:
        """Whether a session is open."""
        return self._connected.is_set()

    async def generate(self, submits: Sequence[engine_pb2.Submit]) -> Generation:
        """Hand requests to the engine; their `request_id` is set here. Raises EngineUnavailable."""
        await self._wait_for_session()
        for submit in submits:
            submit.request_id = next(self._ids)
        generation = Generation(submits)
        generation.on_close(self._cancel)
        for submit in submits:
            self._generations[submit.request_id] = generation
        self._outbox.submits.extend(submits)
        self._outbox_filled.set()
        return generation

    # ---- unary calls; each raises the engine's own error, or EngineUnavailable

    async def load(self, request: engine_pb2.LoadRequest) -> engine_pb2.LoadResponse:
        """Load a model; answers when it is ready."""
        return await _answer(self._stub.Load(request, timeout=self._load_timeout_seconds))

    async def unload(self, request: engine_pb2.UnloadRequest) -> engine_pb2.UnloadResponse:
        """Unload a model; running requests finish first unless forced."""
        return await _answer(self._stub.Unload(request, timeout=self._load_timeout_seconds))

    async def loaded(self) -> engine_pb2.LoadedResponse:
        """What is loaded, and the memory it takes."""
        return await _answer(self._stub.Loaded(engine_pb2.LoadedRequest(), timeout=_UNARY_SECONDS))

    async def plan(self, request: engine_pb2.PlanRequest) -> engine_pb2.PlanResponse:
        """What loading would do. A dry run of a model never seen takes a while."""
        return await _answer(self._stub.Plan(request, timeout=self._load_timeout_seconds))

    async def health(self) -> engine_pb2.HealthResponse:
        """Whether the engine takes requests."""
        return await _answer(self._stub.Health(engine_pb2.HealthRequest(), timeout=_UNARY_SECONDS))

    # ---- the session

    @property
    def _stub(self) -> EngineAsyncStub:
        if self._channel is None:
            raise EngineUnavailable("the engine client is not started")
        return EngineStub(self._channel)

    async def _wait_for_session(self) -> None:
        if self._connected.is_set():
            return
        try:
            await asyncio.wait_for(self._connected.wait(), self._connect_wait_seconds)
        except TimeoutError as error:
            raise EngineUnavailable("the engine does not answer; try again shortly") from error

    def _cancel(self, generation: Generation) -> None:
        cancelled = [i for i in generation.request_ids if self._generations.pop(i, None)]
        if cancelled and self._connected.is_set():
            self._outbox.cancels.extend(cancelled)
            self._outbox_filled.set()

    async def _keep_session(self) -> None:
        """Open a session, hold it until it breaks, again. Ends by cancellation only."""
        retry_seconds = _FIRST_RETRY_SECONDS
        while True:
            try:
                call = self._stub.Session()
                await call.wait_for_connection()
                logger.info("engine session opened")
                retry_seconds = _FIRST_RETRY_SECONDS
                await self._hold(call)
            except grpc.aio.AioRpcError as error:
                # Once when it breaks; not for every attempt while the engine is away.
                level = logging.WARNING if self.is_connected else logging.DEBUG
                logger.log(level, "engine session broke", extra={"status": error.code().name})
            finally:
                self._fail_all()
            await asyncio.sleep(retry_seconds * random.uniform(0.8, 1.2))  # noqa: S311
            retry_seconds = min(2 * retry_seconds, _MAX_RETRY_SECONDS)

    async def _hold(self, call: _Session) -> None:
        """Write and read one session until either side ends it."""
        self._connected.set()
        tasks = {asyncio.create_task(self._write(call)), asyncio.create_task(self._read(call))}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            call.cancel()

    async def _write(self, call: _Session) -> None:
        while True:
            await self._outbox_filled.wait()
            self._outbox_filled.clear()
            frame, self._outbox = self._outbox, engine_pb2.ClientFrame()
            await call.write(frame)

    async def _read(self, call: _Session) -> None:
        generations = self._generations
        while True:
            frame = await call.read()
            if not isinstance(frame, engine_pb2.EngineFrame):  # grpc.aio.EOF
                return
            for event in frame.events:
                generation = generations.get(event.request_id)
                if generation is None:  # cancelled while the event was on its way
                    continue
                generation.push(event)
                if generation.is_over:
                    self._retire(generation)

    def _retire(self, generation: Generation) -> None:
        """Forget what is over; of several requests that belong together, one's error ends all."""
        self._cancel(generation)
        for submit in generation.submits:
            self._generations.pop(submit.request_id, None)

    def _fail_all(self) -> None:
        self._connected.clear()
        self._outbox = engine_pb2.ClientFrame()
        self._outbox_filled.clear()
        open_generations = set(self._generations.values())
        self._generations.clear()
        for generation in open_generations:
            generation.fail(
                EngineUnavailable("the engine stopped while it worked on this; try again")
            )


async def _answer(call: Awaitable[R]) -> R:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise error_of(error) from error


def error_of(error: grpc.aio.AioRpcError) -> SpindllError:
    """Our error behind a failed call: the engine's own where it sent one."""
    for name, value in error.trailing_metadata() or ():
        if name == "spindll-error":
            return from_wire(msgspec.json.decode(unquote(str(value))))
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return EngineUnavailable("the engine does not answer; try again shortly")
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded("the engine took too long")
    logger.error("engine call failed", extra={"status": error.code().name})
    return InternalError("internal error")
