"""The requests that a loop currently answers, and the events reported about them."""

from __future__ import annotations

from collections.abc import Iterable

from services.engine.core import Counters, FinishReason
from services.engine.messages import Failed, Finished, RequestEvent, Started
from services.engine.runner.requests.answer import Answer
from services.engine.runner.requests.input_processor import PreparedRequest
from services.engine.runner.stepping.scheduler.request import Branch, Request
from services.engine.runner.stepping.scheduler.step_plan import Chunk
from services.shared.errors import SpindllError, to_wire


class OutputProcessor:
    """The state of all current requests, and the events of the current step."""

    def __init__(self) -> None:
        self.counters = Counters()
        self._requests: dict[int, PreparedRequest] = {}
        self._events: list[RequestEvent] = []

    def __contains__(self, request_id: int) -> bool:
        return request_id in self._requests

    def add(self, prepared: PreparedRequest) -> None:
        """Register a request; it is about to be queued."""
        self._requests[prepared.request.id] = prepared

    def prepared_for(self, branch: Branch) -> PreparedRequest:
        """The request a branch belongs to."""
        return self._requests[branch.request.id]

    def answer_for(self, branch: Branch) -> Answer:
        """The answer that a branch generates."""
        return self._requests[branch.request.id].answers[branch.index]

    def publish(self, event: RequestEvent) -> None:
        """Add an event to the report of this step."""
        self._events.append(event)

    def take_events(self) -> list[RequestEvent]:
        """Remove and return the events collected so far."""
        events, self._events = self._events, []
        return events

    def start(self, branch: Branch, now: float) -> None:
        """A branch runs for the first time; the event is sent for the first branch of a request."""
        prepared = self._requests[branch.request.id]
        if prepared.started_at is not None:
            return
        prepared.started_at = now
        prompt = len(branch.request.prompt)
        self.counters.prompt_tokens += prompt
        self.publish(Started(branch.request.id, prompt, branch.cached_tokens or 0))

    def count_prompt_tokens(self, chunks: Iterable[Chunk]) -> None:
        """Count the prompt tokens that were computed, each token once per branch."""
        for chunk in chunks:
            branch = chunk.branch
            if chunk.start >= len(branch.request.prompt):
                continue
            end = min(chunk.start + chunk.count, len(branch.request.prompt))
            begin = max(chunk.start, branch.counted_tokens)
            if end > begin:
                self.counters.computed_tokens += end - begin
                branch.counted_tokens = end

    def record_progress(self, branch: Branch, answer: Answer, now: float) -> None:
        """An answer has new tokens, or has ended: add the events for it."""
        if answer.first_token_at is None:
            answer.first_token_at = now
        delta = answer.take_delta()
        if delta is not None:
            self.counters.completion_tokens += delta.tokens
            self._events.append(delta)
        if answer.reason is not None:
            self._finish(branch, answer, answer.reason, now)

    def fail(self, request: Request, error: SpindllError) -> None:
        """End a request with an error."""
        if self._requests.pop(request.id, None) is not None:
            self.publish(Failed(request.id, to_wire(error)))

    def cancel(self, request: Request, now: float) -> None:
        """End the unfinished answers of a request as cancelled."""
        prepared = self._requests[request.id]
        for branch, answer in zip(request.branches, prepared.answers, strict=True):
            if answer.reason is None:
                answer.end(FinishReason.CANCELLED)
                self._finish(branch, answer, FinishReason.CANCELLED, now)

    def _finish(self, branch: Branch, answer: Answer, reason: FinishReason, now: float) -> None:
        prepared = self._requests[branch.request.id]
        self.counters.draft_tokens += answer.draft_tokens
        self.counters.draft_accepted += answer.draft_accepted
        started = prepared.started_at if prepared.started_at is not None else now
        first = answer.first_token_at if answer.first_token_at is not None else now
        self.publish(
            Finished(
                branch.request.id,
                answer.index,
                reason,
                prompt_tokens=len(branch.request.prompt),
                cached_tokens=branch.cached_tokens or 0,
                completion_tokens=answer.completion_tokens,
                queue_seconds=started - branch.request.arrived_at,
                prompt_seconds=first - started,
                generate_seconds=now - first,
                draft_tokens=answer.draft_tokens,
                draft_accepted=answer.draft_accepted,
                stop_string=answer.detokenizer.stop_string,
                prompt_logprobs=tuple(prepared.prompt_logprobs),
            )
        )
        if all(other.reason is not None for other in prepared.answers):
            del self._requests[branch.request.id]
