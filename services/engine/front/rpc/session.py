"""One api worker's stream: many requests in, what happened to them out.

    client frames ─► submit ─► (resolve the model's name) ─► Models.place ─► ... ─► mailbox ─► engine frames

Ends when the stream breaks, which cancels its requests, or, where the client only stopped sending,
with the last event of the last request. Event loop only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from protos import engine_pb2 as pb
from services.engine import messages
from services.engine.front.models.manager import Models
from services.engine.front.models.manifest_cache import Catalogue
from services.engine.front.models.request import Request
from services.engine.front.rpc.event_queue import Mailbox, MergedDelta, Said
from services.engine.front.rpc.from_proto import request_of
from services.engine.front.rpc.model_defaults import model_defaults
from services.shared.errors import Cancelled, InternalError, InvalidRequest, SpindllError, to_wire
from services.shared.store.manifest import Manifest

logger = logging.getLogger(__name__)


class Session:
    """A Listener for its requests."""

    def __init__(
        self, models: Models, catalogue: Catalogue, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._models = models
        self._catalogue = catalogue
        self._clock = clock
        self.mailbox = Mailbox()
        # Straight to the mailbox: this is called for every token.
        self.put_delta = self.mailbox.put_delta
        self._placed: dict[int, tuple[Manifest, Request]] = {}
        self._resolving: dict[int, asyncio.Task[None]] = {}
        self._last_resolving: dict[str, asyncio.Task[None]] = {}  # by model name
        self._is_finishing = False

    def take(self, frame: pb.ClientFrame) -> None:
        """What the client wants: new requests, and the end of others."""
        for message in frame.submits:
            self._submit(message)
        for request_id in frame.cancels:
            self._cancel(request_id)

    def put(self, request_id: int, item: MergedDelta | Said) -> None:
        """See Listener."""
        self.mailbox.put(request_id, item)

    def end(self, request_id: int) -> None:
        """See Listener."""
        self._placed.pop(request_id, None)
        self._close_when_done()

    def finish(self) -> None:
        """No new requests come; the mailbox closes after the last event."""
        self._is_finishing = True
        self._close_when_done()

    def close(self) -> None:
        """The stream is gone: cancel what is left of its requests. Closing twice is fine."""
        self.mailbox.close()
        for task in self._resolving.values():
            task.cancel()
        for manifest, request in list(self._placed.values()):
            self._models.cancel(manifest, request)

    def _submit(self, message: pb.Submit) -> None:
        if message.request_id in self._placed or message.request_id in self._resolving:
            self._fail(message.request_id, InvalidRequest("this request id is in use"))
            return
        manifest = self._catalogue.fresh(message.model)
        before = self._last_resolving.get(message.model)
        if manifest is not None and before is None:
            self._place(message, manifest)
            return
        task = asyncio.get_running_loop().create_task(self._resolve(message, before))
        self._resolving[message.request_id] = self._last_resolving[message.model] = task
        task.add_done_callback(lambda _: self._resolved(message, task))

    async def _resolve(self, message: pb.Submit, before: asyncio.Task[None] | None) -> None:
        """Requests for one model are placed in the order they came: each waits for the one before."""
        try:
            if before is not None:
                await asyncio.wait([before])
            manifest = await self._catalogue.resolve(message.model)
        except SpindllError as error:
            self._fail(message.request_id, error)
        except Exception:
            logger.exception("model name not resolved")
            self._fail(message.request_id, InternalError("internal error"))
        else:
            self._place(message, manifest)

    def _resolved(self, message: pb.Submit, task: asyncio.Task[None]) -> None:
        self._resolving.pop(message.request_id, None)
        if self._last_resolving.get(message.model) is task:
            del self._last_resolving[message.model]
        self._close_when_done()

    def _place(self, message: pb.Submit, manifest: Manifest) -> None:
        try:
            defaults = model_defaults(manifest.params)
            request = request_of(message, defaults, self, now=self._clock())
            self._placed[message.request_id] = (manifest, request)
            self._models.place(manifest, request)
        except SpindllError as error:
            self._fail(message.request_id, error)
        except Exception:
            logger.exception("request not placed", extra={"request_id": message.trace_id})
            self._fail(message.request_id, InternalError("internal error"))

    def _cancel(self, request_id: int) -> None:
        if (task := self._resolving.get(request_id)) is not None:
            task.cancel()
            self._fail(request_id, Cancelled("the request was cancelled"))
        elif (placed := self._placed.get(request_id)) is not None:
            self._models.cancel(*placed)

    def _fail(self, request_id: int, error: SpindllError) -> None:
        """A request that never got anywhere."""
        self.mailbox.put(request_id, messages.Failed(0, to_wire(error)))
        self.end(request_id)

    def _close_when_done(self) -> None:
        if self._is_finishing and not self._placed and not self._resolving:
            self.mailbox.close()
