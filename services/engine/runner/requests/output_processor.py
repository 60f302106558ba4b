"""The requests a loop answers now: their answers, and what the front is told about them."""

from __future__ import annotations

from collections.abc import Iterable

from services.engine.core import Counters, FinishReason
from services.engine.messages import Failed, Finished, RequestEvent, Started
from services.engine.runner.requests.answer import Answer
from services.engine.runner.requests.input_processor import Arrival
from services.engine.runner.stepping.scheduler.request import Branch, Request
from services.engine.runner.stepping.scheduler.step_plan import Chunk
from services.shared.errors import SpindllError, to_wire


class Live:
    """Everything known of the requests under way, and the happenings of the present step."""

    def __init__(self) -> None:
        self.counters = Counters()
        self._arrivals: dict[int, Arrival] = {}
        self._happenings: list[RequestEvent] = []

    def __contains__(self, request_id: int) -> bool:
        return request_id in self._arrivals

    def add(self, arrival: Arrival) -> None:
        """A request was queued."""
        self._arrivals[arrival.request.id] = arrival

    def arrival(self, branch: Branch) -> Arrival:
        """The request a branch belongs to."""
        return self._arrivals[branch.request.id]

    def answer(self, branch: Branch) -> Answer:
        """The answer a branch stands for."""
        return self._arrivals[branch.request.id].answers[branch.index]

    def say(self, happening: RequestEvent) -> None:
        """Add to what the front is told after this step."""
        self._happenings.append(happening)

    def take_happenings(self) -> list[RequestEvent]:
        """All of it, once."""
        events, self._happenings = self._happenings, []
        return events

    def start(self, branch: Branch, now: float) -> None:
        """A branch runs for the first time; the front hears of a request's first."""
        arrival = self._arrivals[branch.request.id]
        if arrival.started_at is not None:
            return
        arrival.started_at = now
        prompt = len(branch.request.prompt)
        self.counters.prompt_tokens += prompt
        self.say(Started(branch.request.id, prompt, branch.cached_tokens or 0))

    def count(self, chunks: Iterable[Chunk]) -> None:
        """Note which prompt tokens were computed, each once."""
        for chunk in chunks:
            branch = chunk.branch
            if chunk.start >= len(branch.request.prompt):
                continue
            end = min(chunk.start + chunk.count, len(branch.request.prompt))
            begin = max(chunk.start, branch.counted_tokens)
            if end > begin:
                self.counters.computed_tokens += end - begin
                branch.counted_tokens = end

    def progress(self, branch: Branch, answer: Answer, now: float) -> None:
        """A branch's answer got tokens, and perhaps its end."""
        if answer.first_token_at is None:
            answer.first_token_at = now
        delta = answer.take_delta()
        if delta is not None:
            self.counters.completion_tokens += delta.tokens
            self._happenings.append(delta)
        if answer.reason is not None:
            self._finish(branch, answer, answer.reason, now)

    def fail(self, request: Request, error: SpindllError) -> None:
        """A request ends with an error."""
        if self._arrivals.pop(request.id, None) is not None:
            self.say(Failed(request.id, to_wire(error)))

    def cancel(self, request: Request, now: float) -> None:
        """A request's unfinished answers end as cancelled."""
        arrival = self._arrivals[request.id]
        for branch, answer in zip(request.branches, arrival.answers, strict=True):
            if answer.reason is None:
                answer.end(FinishReason.CANCELLED)
                self._finish(branch, answer, FinishReason.CANCELLED, now)

    def _finish(self, branch: Branch, answer: Answer, reason: FinishReason, now: float) -> None:
        arrival = self._arrivals[branch.request.id]
        self.counters.draft_tokens += answer.draft_tokens
        self.counters.draft_accepted += answer.draft_accepted
        started = arrival.started_at if arrival.started_at is not None else now
        first = answer.first_token_at if answer.first_token_at is not None else now
        self.say(
            Finished(
                branch.request.id,
                answer.index,
                reason,
                prompt_tokens=len(branch.request.prompt),
                cached_tokens=branch.cached_tokens or 0,
                completion_tokens=answer.completion_tokens,
                queue_seconds=started - branch.request.arrived,
                prompt_seconds=first - started,
                generate_seconds=now - first,
                draft_tokens=answer.draft_tokens,
                draft_accepted=answer.draft_accepted,
                stop_string=answer.text.stopped,
                prompt_logprobs=tuple(arrival.prompt_logprobs),
            )
        )
        if all(other.reason is not None for other in arrival.answers):
            del self._arrivals[branch.request.id]
