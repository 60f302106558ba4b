"""Whole answers, built from the events of a generation; each dialect only gives them its shape."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from dataclasses import dataclass

from services.api.generation.events import (
    Finished,
    FinishReason,
    GenerationEvent,
    TextDelta,
    TokenLogprob,
)


@dataclass(frozen=True, slots=True)
class Answer:
    """One whole answer."""

    text: str
    reason: FinishReason
    logprobs: tuple[TokenLogprob, ...]
    prompt_logprobs: tuple[TokenLogprob, ...]


class Accumulator:
    """Collects the events of all answers of a generation, in order."""

    def __init__(self, answer_count: int) -> None:
        self._deltas: list[list[TextDelta]] = [[] for _ in range(answer_count)]
        self._finished: dict[int, Finished] = {}

    def add(self, events: Iterable[GenerationEvent]) -> None:
        """Add events."""
        for event in events:
            if isinstance(event, TextDelta):
                self._deltas[event.index].append(event)
            elif isinstance(event, Finished):
                self._finished[event.index] = event

    def build(self) -> list[Answer]:
        """The answers, once all have ended."""
        return [
            Answer(
                text="".join(delta.text for delta in deltas),
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
