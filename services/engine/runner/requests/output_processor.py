"""The requests that a loop currently answers, and the events reported about them."""

from __future__ import annotations

from collections.abc import Iterable

from services.engine.core import Counters, FinishReason
from services.engine.messages.reports import Delta, Failed, Finished, Queued, RequestEvent, Started
from services.engine.runner import batcher
from services.engine.runner.requests.answer import TextAnswer
from services.engine.runner.requests.input_processor import PreparedRequest
from services.shared.errors import SpindllError, to_wire


class OutputProcessor:
    """Turns the events of the batcher into those that the front reads."""

    def __init__(self, counters: Counters) -> None:
        """Counts the tokens of prompts and answers, and drafts, in `counters`."""
        self._counters = counters
        self._requests: dict[int, PreparedRequest] = {}
        self._events: list[RequestEvent] = []

    @property
    def ids(self) -> list[int]:
        """The ids of all current requests."""
        return list(self._requests)

    def add(self, prepared: PreparedRequest) -> None:
        """Register a request; it is about to be queued."""
        self._requests[prepared.submit.id] = prepared

    def process(
        self, events: Iterable[batcher.BatchEvent], *, began_at: float, ended_at: float
    ) -> None:
        """Take in the events of one step; its times are on the clock of `BatchRequest.arrived_at`.

        The work on a prompt begins with the step, and tokens come at its end.
        """
        for event in events:
            match event:
                case batcher.Written():
                    answer = self._requests[event.id].answers[event.index]
                    if answer.first_token_at is None:
                        answer.first_token_at = ended_at
                    self._publish_delta(answer)
                case batcher.Ended():
                    self._finish(event, ended_at)
                case batcher.Begun():
                    self._start(event, began_at)
                case batcher.Waiting():
                    self._events.append(Queued(event.id, event.position))
                case batcher.PromptScored():
                    self._requests[event.id].prompt_logprobs.extend(event.entries)
                case batcher.Failed():
                    self.fail(event.id, event.error)

    def cancel(self, unfinished: Iterable[batcher.Ended], now: float) -> None:
        """End these answers as cancelled."""
        for event in unfinished:
            answer = self._requests[event.id].answers[event.index]
            answer.end(FinishReason.CANCELLED)
            self._finish(event, now)

    def fail(self, request_id: int, error: SpindllError) -> None:
        """End a request with an error; nothing happens if it has ended already."""
        if self._requests.pop(request_id, None) is not None:
            self._events.append(Failed(request_id, to_wire(error)))

    def take_events(self) -> list[RequestEvent]:
        """Remove and return the events collected so far."""
        events, self._events = self._events, []
        return events

    def _start(self, event: batcher.Begun, now: float) -> None:
        """The first answer of a request has begun; those that begin later change nothing."""
        prepared = self._requests[event.id]
        if prepared.started_at is None:
            prepared.started_at = now
            prompt_tokens = len(prepared.request.prompt)
            self._counters.prompt_tokens += prompt_tokens
            self._events.append(
                Started(
                    event.id,
                    prompt_tokens,
                    event.cached_tokens,
                    event.stored_tokens,
                    prepared.uses_cuts,
                    event.disk_tokens,
                )
            )

    def _publish_delta(self, answer: TextAnswer) -> None:
        delta: Delta | None = answer.take_delta()
        if delta is not None:
            self._counters.completion_tokens += delta.tokens
            self._events.append(delta)

    def _finish(self, event: batcher.Ended, now: float) -> None:
        prepared = self._requests[event.id]
        answer = prepared.answers[event.index]
        assert answer.reason is not None
        self._publish_delta(answer)  # the text that was held back
        self._counters.draft_tokens += event.draft_tokens
        self._counters.draft_accepted += event.draft_accepted
        started = prepared.started_at if prepared.started_at is not None else now
        first = answer.first_token_at if answer.first_token_at is not None else now
        self._events.append(
            Finished(
                event.id,
                event.index,
                answer.reason,
                prompt_tokens=len(prepared.request.prompt),
                cached_tokens=event.cached_tokens,
                completion_tokens=answer.completion_tokens,
                queue_seconds=started - prepared.request.arrived_at,
                prompt_seconds=first - started,
                generate_seconds=now - first,
                draft_tokens=event.draft_tokens,
                draft_accepted=event.draft_accepted,
                stop_string=answer.detokenizer.stop_string,
                prompt_logprobs=tuple(prepared.prompt_logprobs),
                stored_tokens=event.stored_tokens,
                tier=event.tier,
                saved_seconds=event.saved_seconds,
                disk_tokens=event.disk_tokens,
            )
        )
        # Not by `reason`: that of an answer whose event comes later in this step is set already.
        prepared.ended_answers += 1
        if prepared.ended_answers == len(prepared.answers):
            del self._requests[event.id]
