"""One request of one session, from its arrival at the front to its last event.

    arrived -> waiting (for a load or memory) -> running (a runner has it) -> ended, exactly once

A request knows no model. WaitingRequests holds it while it waits. RunnerRequests holds it while it
runs, and passes it its events.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import msgspec

from services.engine.core import FinishReason
from services.engine.messages import commands, reports
from services.engine.queue_shares import has_place
from services.shared.errors import DeadlineExceeded, EngineBusy, SpindllError, to_wire


class QueueReason(Enum):
    """What a request waits for before a runner has it."""

    LOADING = "loading"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class QueuePosition:
    """The place of a request before a runner has it; 1 is next."""

    position: int
    reason: QueueReason


RequestItem = reports.Queued | reports.Started | reports.Finished | reports.Failed | QueuePosition


class RequestListener(Protocol):
    """Receives the events of requests: the session that they came through."""

    def put_delta(self, request_id: int, delta: reports.Delta) -> None:
        """Receive more text."""

    def put(self, request_id: int, item: RequestItem) -> None:
        """Receive any other event."""

    def end(self, request_id: int) -> None:
        """The request has ended: no event follows."""


class ClientRequest:
    """See the module. `submit.id` is set when a runner gets the request."""

    __slots__ = (
        "_listener",
        "_open_answers",
        "_reported_position",
        "arrived_at",
        "deadline_at",
        "has_ended",
        "keep_alive_only_extends",
        "keep_alive_seconds",
        "model_name",
        "request_id",
        "runner_id",
        "submit",
        "trace_id",
    )

    def __init__(
        self,
        submit: commands.Submit,
        listener: RequestListener,
        *,
        request_id: int,
        trace_id: str,
        model_name: str,
        keep_alive_seconds: float | None,
        keep_alive_only_extends: bool = False,
        now: float,
    ) -> None:
        self.submit = submit
        self.request_id = request_id
        self.trace_id = trace_id
        self.model_name = model_name  # as the client wrote it
        self.keep_alive_seconds = keep_alive_seconds
        self.keep_alive_only_extends = keep_alive_only_extends
        self.arrived_at = now
        limit = submit.deadline_seconds
        self.deadline_at = None if limit is None else now + limit
        self.runner_id: int | None = None  # its id in the runner that has it
        self.has_ended = False
        self._listener = listener
        self._open_answers = submit.n
        self._reported_position: QueuePosition | None = None

    def choose_keep_alive(self, present: float | None) -> float | None:
        """The keep-alive of its model from now on, in seconds; `present` is the one until now."""
        wanted = self.keep_alive_seconds
        if wanted is None or (self.keep_alive_only_extends and is_shorter(wanted, present)):
            return present
        return wanted

    def build_submit(self, runner_id: int, now: float) -> commands.Submit:
        """The command that gives it to a runner, with the time that is left of its deadline."""
        self.runner_id = runner_id
        left = None if self.deadline_at is None else max(self.deadline_at - now, 0.0)
        return msgspec.structs.replace(self.submit, id=runner_id, deadline_seconds=left)

    def report_position(self, position: int, reason: QueueReason) -> None:
        """Report its place in the queue, if that has changed since the last report."""
        place = QueuePosition(position, reason)
        if place != self._reported_position and not self.has_ended:
            self._reported_position = place
            self._listener.put(self.request_id, place)

    def on_event(self, event: reports.RequestEvent) -> None:
        """Take an event from its runner."""
        if isinstance(event, reports.Delta):
            self._listener.put_delta(self.request_id, event)
            return
        if isinstance(event, reports.Finished):
            self._open_answers -= 1
            self.has_ended = self._open_answers <= 0
        elif isinstance(event, reports.Failed):
            self.has_ended = True
        self._listener.put(self.request_id, event)
        if self.has_ended:
            self._listener.end(self.request_id)

    def fail(self, error: SpindllError) -> None:
        """End it with an error. A request that has ended stays as it is."""
        if not self.has_ended:
            self.has_ended = True
            self._listener.put(self.request_id, reports.Failed(self.runner_id or 0, to_wire(error)))
            self._listener.end(self.request_id)

    def cancel(self) -> None:
        """End a request that no runner has, without an error."""
        if not self.has_ended:
            self.has_ended = True
            for index in range(self._open_answers):
                self._listener.put(self.request_id, _build_cancelled(index))
            self._listener.end(self.request_id)


class WaitingRequests:
    """The requests that wait until one model is ready, in the order of their arrival."""

    def __init__(self, model_name: str) -> None:
        self._model_name = model_name
        self._requests: dict[ClientRequest, None] = {}  # ordered; a dict, for removal in the middle

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, request: ClientRequest, *, max_queued: int) -> None:
        """Append a request. EngineBusy when `max_queued` wait already, see queue_shares.py."""
        waiting = (other.submit.principal for other in self._requests)
        if not has_place(request.submit.principal, 1, waiting, limit=max_queued):
            raise EngineBusy(f"{len(self)} requests wait for {self._model_name} already")
        self._requests[request] = None

    def add_all(self, requests: Iterable[ClientRequest]) -> None:
        """Append requests that have waited before, however many they are."""
        self._requests.update(dict.fromkeys(requests))

    def remove(self, request: ClientRequest) -> bool:
        """Remove a request; False when it does not wait here."""
        if request not in self._requests:
            return False
        del self._requests[request]
        return True

    def take_all(self) -> list[ClientRequest]:
        """Remove all requests; those removed."""
        requests, self._requests = list(self._requests), {}
        return requests

    def report_positions(self, ahead: int, reason: QueueReason) -> int:
        """Report their places to all, with `ahead` requests before the first; the last place."""
        for position, request in enumerate(self._requests, ahead + 1):
            request.report_position(position, reason)
        return ahead + len(self._requests)

    def fail_overdue(self, now: float) -> None:
        """End those whose deadline has passed. A runner checks the deadlines of its own."""
        overdue = [r for r in self._requests if r.deadline_at is not None and r.deadline_at <= now]
        for request in overdue:
            del self._requests[request]
            request.fail(DeadlineExceeded(f"{self._model_name} was not ready in time"))


def _build_cancelled(index: int) -> reports.Finished:
    return reports.Finished(
        id=0,
        index=index,
        reason=FinishReason.CANCELLED,
        prompt_tokens=0,
        cached_tokens=0,
        completion_tokens=0,
        queue_seconds=0.0,
        prompt_seconds=0.0,
        generate_seconds=0.0,
    )


def is_shorter(keep_alive_seconds: float, present: float | None) -> bool:
    """Whether a model would leave earlier with the first than with the second. Negative: never."""
    if present is None or present < 0:
        return keep_alive_seconds >= 0
    return 0 <= keep_alive_seconds < present
