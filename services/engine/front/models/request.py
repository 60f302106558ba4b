"""One request of one session, from its arrival at the front to its last event.

    arrived -> waiting (for a load, for memory) -> running (a runner has it) -> ended, exactly once

It does not know models: a Model holds it while it waits and runs, and tells it what happened.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import msgspec

from services.engine import messages
from services.engine.core import FinishReason
from services.shared.errors import SpindllError, to_wire


class WaitReason(Enum):
    """What a request that no runner has yet is waiting for."""

    LOADING = "loading"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class Waiting:
    """Its place before any runner has it; 1 is next."""

    position: int
    reason: WaitReason


class Listener(Protocol):
    """Who is told: the mailbox of the session the request came through."""

    def put_delta(self, request_id: int, delta: messages.Delta) -> None:
        """More text."""

    def put(
        self,
        request_id: int,
        item: messages.Queued | messages.Started | messages.Finished | messages.Failed | Waiting,
    ) -> None:
        """Anything else."""

    def end(self, request_id: int) -> None:
        """That was its last event."""


class Request:
    """See the module. `submit.id` is filled in when a runner gets it."""

    __slots__ = (
        "_listener",
        "_open_answers",
        "_told",
        "arrived_at",
        "deadline_at",
        "has_ended",
        "keep_alive_seconds",
        "model",
        "request_id",
        "runner_id",
        "submit",
        "trace_id",
    )

    def __init__(
        self,
        submit: messages.Submit,
        listener: Listener,
        *,
        request_id: int,
        trace_id: str,
        model: str,
        keep_alive_seconds: float | None,
        now: float,
    ) -> None:
        self.submit = submit
        self.request_id = request_id
        self.trace_id = trace_id
        self.model = model  # the name that was asked for
        self.keep_alive_seconds = keep_alive_seconds
        self.arrived_at = now
        limit = submit.deadline_seconds
        self.deadline_at = None if limit is None else now + limit
        self.runner_id: int | None = None
        self.has_ended = False
        self._listener = listener
        self._open_answers = submit.n
        self._told: Waiting | None = None

    def for_runner(self, runner_id: int, now: float) -> messages.Submit:
        """The command that hands it to a runner; the deadline is what is left of it."""
        self.runner_id = runner_id
        left = None if self.deadline_at is None else max(self.deadline_at - now, 0.0)
        return msgspec.structs.replace(self.submit, id=runner_id, deadline_seconds=left)

    def wait(self, position: int, reason: WaitReason) -> None:
        """Say where it stands; a place it was told already is not said again."""
        place = Waiting(position, reason)
        if place != self._told and not self.has_ended:
            self._told = place
            self._listener.put(self.request_id, place)

    def tell(self, happening: messages.RequestEvent) -> None:
        """What its runner said of it."""
        if isinstance(happening, messages.Delta):
            self._listener.put_delta(self.request_id, happening)
            return
        if isinstance(happening, messages.Finished):
            self._open_answers -= 1
            self.has_ended = self._open_answers <= 0
        elif isinstance(happening, messages.Failed):
            self.has_ended = True
        self._listener.put(self.request_id, happening)
        if self.has_ended:
            self._listener.end(self.request_id)

    def fail(self, error: SpindllError) -> None:
        """End it with an error. One that ended already stays as it is."""
        if not self.has_ended:
            self.has_ended = True
            self._listener.put(
                self.request_id, messages.Failed(self.runner_id or 0, to_wire(error))
            )
            self._listener.end(self.request_id)

    def cancel(self) -> None:
        """End it without an error, before any runner had it."""
        if not self.has_ended:
            self.has_ended = True
            for index in range(self._open_answers):
                self._listener.put(self.request_id, _nothing(index))
            self._listener.end(self.request_id)


def _nothing(index: int) -> messages.Finished:
    return messages.Finished(
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
