"""The api's client for engine.proto: one Session stream per worker, beside the unary calls.

All requests of a worker share the frames of one stream, which costs a third of one stream per
request. One task writes the stream (a second writer would break the call); one task reads it and
pushes each event to the GenerationStream of its request. When the stream breaks, every request on
it fails with EngineUnavailable, and a new session is opened, with back-off, for later requests.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from protos import engine_pb2
from protos.engine_pb2_grpc import EngineStub
from services.api.clients.engine_calls import EngineCalls
from services.api.clients.generation_stream import GenerationStream
from services.shared.errors import EngineUnavailable, InvalidRequest
from services.shared.limits import MAX_FRAME_BYTES, MAX_MESSAGE_BYTES, MAX_SUBMIT_BYTES

if TYPE_CHECKING:  # exists in the type stubs only
    from protos.engine_pb2_grpc import EngineAsyncStub

logger = logging.getLogger(__name__)

_CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A frozen engine must not block its clients forever: ping it, and give up without a reply.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # what the keep-alive really waits for; 60 s by default
    ("grpc.http2.max_pings_without_data", 0),
    # gRPC's own back-off would grow to two minutes; the back-off of `_keep_session` decides.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Never through a proxy: the engine runs on this machine or network.
    ("grpc.enable_http_proxy", 0),
)
_FIRST_RETRY_SECONDS = 0.1
_MAX_RETRY_SECONDS = 2.0
_SessionCall = grpc.aio.StreamStreamCall[engine_pb2.ClientFrame, engine_pb2.EngineFrame]


class EngineClient:
    """The connection of one worker to the engine: its session, and `calls` on the same channel.

    Event loop only; `start` and `close` are called once each.
    """

    def __init__(
        self,
        address: str,
        *,
        connect_wait_seconds: float = 3.0,
        load_timeout_seconds: float = 900.0,
    ) -> None:
        self.calls = EngineCalls(self._get_stub, load_timeout_seconds=load_timeout_seconds)
        self._address = address
        self._connect_wait_seconds = connect_wait_seconds
        self._ids = itertools.count(1)
        self._generations: dict[int, GenerationStream] = {}
        self._pending_submits: dict[int, engine_pb2.Submit] = {}  # by request_id, oldest first
        self._pending_cancels: list[int] = []
        self._has_pending = asyncio.Event()
        self._connected = asyncio.Event()  # or closed: no request need wait any longer
        self._is_closed = False
        self._channel: grpc.aio.Channel | None = None
        self._session_task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the channel and keep a session on it; the engine need not be up yet."""
        self._channel = grpc.aio.insecure_channel(self._address, options=_CHANNEL_OPTIONS)
        self._session_task = asyncio.create_task(self._keep_session(), name="engine session")

    async def close(self) -> None:
        """End the session; requests still running on it fail, and so do later ones, at once."""
        self._is_closed = True
        self._fail_all(EngineUnavailable("the service is stopping; try again"))
        if self._session_task is not None:
            self._session_task.cancel()
            await asyncio.gather(self._session_task, return_exceptions=True)
        self._connected.set()
        if self._channel is not None:
            await self._channel.close()

    @property
    def is_connected(self) -> bool:
        """Whether a session is open."""
        return self._connected.is_set() and not self._is_closed

    async def generate(self, submit: engine_pb2.Submit) -> GenerationStream:
        """Send a request to the engine, and set its `request_id` and those of its further prompts.

        InvalidRequest when it is larger than MAX_SUBMIT_BYTES: one client's request must not break
        the stream that all share. EngineUnavailable.
        """
        size = submit.ByteSize()
        if size > MAX_SUBMIT_BYTES:
            raise InvalidRequest(
                f"the request is too large: its prompts and options are {size} bytes for the "
                f"engine, which accepts {MAX_SUBMIT_BYTES}"
            )
        await self._wait_for_session()
        submit.request_id = next(self._ids)
        for prompt in submit.further_prompts:
            prompt.request_id = next(self._ids)
        request_ids = [submit.request_id, *(p.request_id for p in submit.further_prompts)]
        generation = GenerationStream(request_ids, answers_per_request=submit.n or 1)
        generation.set_close_callback(self._cancel)
        self._generations.update(dict.fromkeys(request_ids, generation))
        self._pending_submits[submit.request_id] = submit
        self._has_pending.set()
        return generation

    # ---- the session

    def _get_stub(self) -> EngineAsyncStub:
        if self._channel is None:
            raise EngineUnavailable("the engine client is not started")
        return EngineStub(self._channel)

    async def _wait_for_session(self) -> None:
        if not self._connected.is_set():
            try:
                await asyncio.wait_for(self._connected.wait(), self._connect_wait_seconds)
            except TimeoutError as error:
                raise EngineUnavailable("the engine does not answer; try again shortly") from error
        if self._is_closed:
            raise EngineUnavailable("the service is stopping; try again")

    def _cancel(self, generation: GenerationStream) -> None:
        cancelled = [i for i in generation.open_request_ids if self._generations.pop(i, None)]
        if self._pending_submits.pop(generation.request_ids[0], None) is not None:
            return  # the engine has not heard of it
        if cancelled and self._connected.is_set():
            self._pending_cancels.extend(cancelled)
            self._has_pending.set()

    async def _keep_session(self) -> None:
        """Open a session, run it until it breaks, and repeat. Ends by cancellation only."""
        retry_seconds = _FIRST_RETRY_SECONDS
        while True:
            try:
                call = self._get_stub().Session()
                await call.wait_for_connection()
                logger.info("engine session opened")
                retry_seconds = _FIRST_RETRY_SECONDS
                await self._run_session(call)
            except grpc.aio.AioRpcError as error:
                # Warn once when the session breaks, not for each attempt while the engine is down.
                level = logging.WARNING if self.is_connected else logging.DEBUG
                logger.log(
                    level, "engine session ended with an error", extra={"status": error.code().name}
                )
            finally:
                self._fail_all(
                    EngineUnavailable("the connection to the engine was lost; try again")
                )
            await asyncio.sleep(retry_seconds * random.uniform(0.8, 1.2))  # noqa: S311
            retry_seconds = min(2 * retry_seconds, _MAX_RETRY_SECONDS)

    async def _run_session(self, call: _SessionCall) -> None:
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

    async def _write(self, call: _SessionCall) -> None:
        while True:
            await self._has_pending.wait()
            await call.write(self._take_frame())

    def _take_frame(self) -> engine_pb2.ClientFrame:
        """All cancels, and the oldest submits: one, and more while they fit MAX_FRAME_BYTES."""
        frame = engine_pb2.ClientFrame(cancels=self._pending_cancels)
        self._pending_cancels = []
        size = 0
        for request_id, submit in list(self._pending_submits.items()):
            size += submit.ByteSize()
            if frame.submits and size > MAX_FRAME_BYTES:
                return frame  # `_has_pending` stays set
            frame.submits.append(self._pending_submits.pop(request_id))
        self._has_pending.clear()
        return frame

    async def _read(self, call: _SessionCall) -> None:
        generations = self._generations
        while True:
            frame = await call.read()
            if not isinstance(frame, engine_pb2.EngineFrame):  # grpc.aio.EOF
                return
            for event in frame.events:
                generation = generations.get(event.request_id)
                if generation is None:  # cancelled while the event was in transit
                    continue
                generation.push(event)
                if generation.is_over:
                    self._remove(generation)

    def _remove(self, generation: GenerationStream) -> None:
        """Remove a generation that is over; an error of one of its requests cancels the others."""
        self._cancel(generation)
        for request_id in generation.request_ids:
            self._generations.pop(request_id, None)

    def _fail_all(self, error: EngineUnavailable) -> None:
        self._connected.clear()
        self._pending_submits.clear()
        self._pending_cancels = []
        self._has_pending.clear()
        open_generations = set(self._generations.values())
        self._generations.clear()
        for generation in open_generations:
            generation.fail(error)
