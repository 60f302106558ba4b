"""Whole answers, built from the events of a generation; each dialect only gives them its shape."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from dataclasses import dataclass

from services.api.clients.generation_stream import MAX_LOGPROBS, build_logprobs_error
from services.api.generation.answers.events import (
    Finished,
    FinishReason,
    GenerationEvent,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    ToolCallStarted,
)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a tool; the arguments are JSON text, half of it where the answer was cut off."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Answer:
    """One whole answer."""

    text: str
    reasoning: str
    calls: tuple[Call, ...]
    reason: FinishReason
    logprobs: tuple[TokenLogprob, ...]
    prompt_logprobs: tuple[TokenLogprob, ...]


class Accumulator:
    """Collects the events of all answers of a generation, in order."""

    def __init__(self, answer_count: int) -> None:
        self._deltas: list[list[TextDelta]] = [[] for _ in range(answer_count)]
        self._reasoning: list[list[str]] = [[] for _ in range(answer_count)]
        self._calls: list[list[tuple[ToolCallStarted, list[str]]]] = [
            [] for _ in range(answer_count)
        ]
        self._finished: dict[int, Finished] = {}
        self._logprobs = 0

    def add(self, events: Iterable[GenerationEvent]) -> None:
        """Add events. InvalidRequest when they have too many log-probabilities to keep."""
        for event in events:
            if isinstance(event, TextDelta):
                self._deltas[event.index].append(event)
                if event.logprobs:
                    self._count_logprobs(event.logprobs)
            elif isinstance(event, Finished):
                self._finished[event.index] = event
            elif isinstance(event, ReasoningDelta):
                self._reasoning[event.index].append(event.text)
            elif isinstance(event, ToolCallStarted):
                self._calls[event.index].append((event, []))
            elif isinstance(event, ToolCallDelta):
                self._calls[event.index][event.call][1].append(event.fragment)

    def _count_logprobs(self, logprobs: tuple[TokenLogprob, ...]) -> None:
        self._logprobs += sum(1 + len(entry.top) for entry in logprobs)
        if self._logprobs > MAX_LOGPROBS:
            raise build_logprobs_error()

    def build(self) -> list[Answer]:
        """The answers, once all have ended."""
        return [
            Answer(
                text="".join(delta.text for delta in deltas),
                reasoning="".join(self._reasoning[index]),
                calls=tuple(
                    Call(start.id, start.name, "".join(fragments))
                    for start, fragments in self._calls[index]
                ),
                reason=self._finished[index].reason,
                logprobs=tuple(entry for delta in deltas for entry in delta.logprobs),
                prompt_logprobs=self._finished[index].prompt_logprobs,
            )
            for index, deltas in enumerate(self._deltas)
        ]


async def accumulate(
    generation: AsyncIterable[list[GenerationEvent]], *, answer_count: int
) -> list[Answer]:
    """All answers of a generation; raises the error that ends it."""
    accumulator = Accumulator(answer_count)
    async for events in generation:
        accumulator.add(events)
    return accumulator.build()
