"""One api worker's stream: the requests of many clients in, their events out.

    client frames ─► receive ─► (resolve the model's name) ─► ModelManager.submit ─► ...
                                              ... ─► EventQueue ─► engine frames

When the stream breaks, the session ends and its requests are cancelled. When the client only stops
sending, it ends with the last event of the last request. Event loop only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from protos import engine_pb2 as pb
from services.engine.front.models.client_request import ClientRequest, RequestItem
from services.engine.front.models.manager import ModelManager
from services.engine.front.models.manifest_cache import ManifestCache
from services.engine.front.rpc.event_queue import EventQueue, MergedDelta
from services.engine.front.rpc.from_proto import OpenRealm, parse_request, split_prompts
from services.engine.front.rpc.model_defaults import parse_model_defaults
from services.engine.messages import reports
from services.shared.errors import Cancelled, InternalError, InvalidRequest, SpindllError, to_wire
from services.shared.store.manifest import Manifest

logger = logging.getLogger(__name__)


class Session:
    """See the module. It is the RequestListener of its requests."""

    def __init__(
        self,
        manager: ModelManager,
        manifests: ManifestCache,
        open_realm: OpenRealm,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._manager = manager
        self._manifests = manifests
        self._open_realm = open_realm
        self._clock = clock
        self.events = EventQueue()
        # An alias instead of a method: this is called once for each token.
        self.put_delta = self.events.put_delta
        self._submitted: dict[int, tuple[Manifest, ClientRequest]] = {}
        self._resolving: dict[int, asyncio.Task[None]] = {}
        self._last_resolving: dict[str, asyncio.Task[None]] = {}  # by model name
        self._is_finishing = False

    def receive(self, frame: pb.ClientFrame) -> None:
        """Take a client frame: new requests, and cancellations of earlier ones."""
        for message in frame.submits:
            for submit in split_prompts(message):
                self._receive_submit(submit)
        for request_id in frame.cancels:
            self._cancel(request_id)

    def put(self, request_id: int, item: MergedDelta | RequestItem) -> None:
        """See RequestListener."""
        self.events.put(request_id, item)

    def end(self, request_id: int) -> None:
        """See RequestListener."""
        self._submitted.pop(request_id, None)
        self._close_if_finished()

    def finish(self) -> None:
        """No new requests come: close the event queue after the last event."""
        self._is_finishing = True
        self._close_if_finished()

    def close(self) -> None:
        """The stream has ended: cancel the requests that have not. Closing twice is fine."""
        self.events.close()
        for task in self._resolving.values():
            task.cancel()
        for manifest, request in list(self._submitted.values()):
            self._manager.cancel(manifest, request)

    def _receive_submit(self, message: pb.Submit) -> None:
        if message.request_id in self._submitted or message.request_id in self._resolving:
            self._fail(message.request_id, InvalidRequest("this request id is in use"))
            return
        manifest = self._manifests.get_fresh(message.model)
        before = self._last_resolving.get(message.model)
        if manifest is not None and before is None:
            self._submit(message, manifest)
            return
        task = asyncio.get_running_loop().create_task(self._resolve(message, before))
        self._resolving[message.request_id] = self._last_resolving[message.model] = task
        task.add_done_callback(lambda _: self._on_resolved(message, task))

    async def _resolve(self, message: pb.Submit, before: asyncio.Task[None] | None) -> None:
        """Resolve the model's name, then submit the request.

        Requests for one model keep their order: each waits for the task of the one before.
        """
        try:
            if before is not None:
                await asyncio.wait([before])
            manifest = await self._manifests.resolve(message.model)
        except SpindllError as error:
            self._fail(message.request_id, error)
        except Exception:
            logger.exception("model name not resolved")
            self._fail(message.request_id, InternalError("internal error"))
        else:
            self._submit(message, manifest)

    def _on_resolved(self, message: pb.Submit, task: asyncio.Task[None]) -> None:
        self._resolving.pop(message.request_id, None)
        if self._last_resolving.get(message.model) is task:
            del self._last_resolving[message.model]
        self._close_if_finished()

    def _submit(self, message: pb.Submit, manifest: Manifest) -> None:
        try:
            defaults = parse_model_defaults(manifest.params)
            request = parse_request(message, defaults, self, self._open_realm, now=self._clock())
            self._submitted[message.request_id] = (manifest, request)
            self._manager.submit(manifest, request)
        except SpindllError as error:
            self._fail(message.request_id, error)
        except Exception:
            logger.exception("request not submitted", extra={"request_id": message.trace_id})
            self._fail(message.request_id, InternalError("internal error"))

    def _cancel(self, request_id: int) -> None:
        if (task := self._resolving.get(request_id)) is not None:
            task.cancel()
            self._fail(request_id, Cancelled("the request was cancelled"))
        elif (submitted := self._submitted.get(request_id)) is not None:
            self._manager.cancel(*submitted)

    def _fail(self, request_id: int, error: SpindllError) -> None:
        """End a request that was refused, or that was not submitted yet."""
        self.events.put(request_id, reports.Failed(0, to_wire(error)))
        self.end(request_id)

    def _close_if_finished(self) -> None:
        if self._is_finishing and not self._submitted and not self._resolving:
            self.events.close()
