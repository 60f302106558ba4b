"""The requests of a StepBatcher, and what has happened to them since the last step."""

from __future__ import annotations

from services.engine.runner.batcher import Answer, BatchEvent, BatchRequest, Begun, Ended, Failed
from services.engine.runner.stepping.scheduler.cut_selection import space_cuts
from services.engine.runner.stepping.scheduler.request import Branch, Request
from services.shared.errors import SpindllError


def build_request(request: BatchRequest) -> Request:
    """The scheduler's view of a request."""
    return Request(
        request.id,
        request.prompt,
        max_length=request.max_length,
        n=len(request.answers),
        lane=request.lane,
        principal=request.principal,
        realm=request.realm,
        arrived_at=request.arrived_at,
        deadline=request.deadline,
        is_shareable=request.is_shareable,
        wants_prompt_logits=request.prompt_logprobs is not None,
        chain=request.chain,
        cuts=space_cuts(request.cuts, len(request.prompt)),
    )


class CurrentRequests:
    """Requests by id, from `add` until their last answer ends, or until they fail."""

    def __init__(self) -> None:
        self._requests: dict[int, BatchRequest] = {}
        self._events: list[BatchEvent] = []

    def __contains__(self, request_id: int) -> bool:
        return request_id in self._requests

    def add(self, request: BatchRequest) -> None:
        """Register a request."""
        self._requests[request.id] = request

    def remove(self, request_id: int) -> BatchRequest:
        """Forget a request without an event, and return it."""
        return self._requests.pop(request_id)

    def get(self, branch: Branch) -> BatchRequest:
        """The request that a branch belongs to."""
        return self._requests[branch.request.id]

    def answer_for(self, branch: Branch) -> Answer:
        """The answer that a branch generates."""
        return self._requests[branch.request.id].answers[branch.index]

    def publish(self, event: BatchEvent) -> None:
        """Add an event of this step."""
        self._events.append(event)

    def fail(self, request_id: int, error: SpindllError) -> None:
        """End a request with an error; nothing happens if it has ended already."""
        if self._requests.pop(request_id, None) is not None:
            self._events.append(Failed(request_id, error))

    def end(self, branch: Branch) -> None:
        """The answer of a branch is over."""
        request = self._requests[branch.request.id]
        self._events.append(build_ended_event(branch))
        if all(answer.reason is not None for answer in request.answers):
            del self._requests[request.id]

    def take_events(self) -> list[BatchEvent]:
        """Remove and return the events collected so far."""
        events, self._events = self._events, []
        return events


def build_begun_event(branch: Branch) -> Begun:
    """Build the event of the first answer of a request that begins."""
    return Begun(
        branch.request.id, branch.cached_tokens or 0, branch.stored_tokens, branch.disk_tokens
    )


def build_ended_event(branch: Branch) -> Ended:
    """Build the event that ends an answer."""
    return Ended(
        branch.request.id,
        branch.index,
        branch.cached_tokens or 0,
        branch.draft_tokens,
        branch.draft_accepted,
        branch.stored_tokens,
        branch.tier,
        branch.saved_seconds,
        branch.disk_tokens,
    )
