"""From the engine's events to the pipeline's. With to_engine.py the only place that sees both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from protos import engine_pb2
from services.api.generation.answers.events import (
    Finished,
    FinishReason,
    GenerationEvent,
    QueueReason,
    Started,
    TextDelta,
    Timings,
    TokenLogprob,
    Waiting,
)

EngineEvent = engine_pb2.Event

_QUEUE_REASONS = {
    engine_pb2.QUEUE_REASON_LOADING: QueueReason.LOADING,
    engine_pb2.QUEUE_REASON_MEMORY: QueueReason.MEMORY,
    engine_pb2.QUEUE_REASON_SLOTS: QueueReason.SLOTS,
}
# The engine reports a cancelled answer too; GenerationStream turns that into an error.
_FINISH_REASONS = {
    engine_pb2.FINISH_REASON_STOP: FinishReason.STOP,
    engine_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
}


def read_events(
    events: Sequence[engine_pb2.Event], *, with_logprobs: bool
) -> list[GenerationEvent]:
    """The events in order, with the deltas of one answer merged into its first.

    `with_logprobs`: whether the request wants them. Only then are they looked for, which costs as
    much as everything else about a delta.
    """
    if len(events) == 1 and not with_logprobs and events[0].HasField("delta"):  # the hot path
        return [TextDelta(events[0].index, events[0].delta.text)]
    deltas: dict[int, list[engine_pb2.Delta]] = {}
    found: list[GenerationEvent | int] = []  # an index: the place of that answer's text
    for event in events:
        kind = event.WhichOneof("kind")
        if kind != "delta":
            found.append(_READERS[kind](event))
            continue
        delta, index = event.delta, event.index
        if index in deltas:
            deltas[index].append(delta)
        else:
            deltas[index] = [delta]
            found.append(index)
    merge = _merge_with_logprobs if with_logprobs else _merge
    return [merge(e, deltas[e]) if isinstance(e, int) else e for e in found]


def read_each(
    events: Iterable[engine_pb2.Event], *, with_logprobs: bool
) -> list[tuple[GenerationEvent, int]]:
    """The events in order, none merged, each with the number of tokens of its text."""
    found: list[tuple[GenerationEvent, int]] = []
    for event in events:
        if event.HasField("delta"):
            read = _merge_with_logprobs if with_logprobs else _merge
            found.append((read(event.index, [event.delta]), event.delta.tokens))
        else:
            found.append((_READERS[event.WhichOneof("kind")](event), 0))
    return found


def _merge(index: int, deltas: Sequence[engine_pb2.Delta]) -> TextDelta:
    return TextDelta(index, "".join([delta.text for delta in deltas]))


def _merge_with_logprobs(index: int, deltas: Sequence[engine_pb2.Delta]) -> TextDelta:
    logprobs = _read_logprobs(entry for delta in deltas for entry in delta.logprobs)
    return TextDelta(index, "".join(delta.text for delta in deltas), logprobs)


def _read_waiting(event: engine_pb2.Event) -> Waiting:
    return Waiting(event.queued.position, _QUEUE_REASONS.get(event.queued.reason))


def _read_started(event: engine_pb2.Event) -> Started:
    started = event.started
    return Started(
        started.prompt_tokens,
        started.cached_tokens,
        started.stored_tokens,
        started.uses_cuts,
        started.disk_tokens,
    )


def _read_finished(event: engine_pb2.Event) -> Finished:
    finished, timings = event.finished, event.finished.timings
    return Finished(
        index=event.index,
        reason=_FINISH_REASONS.get(finished.reason, FinishReason.STOP),
        prompt_tokens=finished.prompt_tokens,
        cached_tokens=finished.cached_tokens,
        completion_tokens=finished.completion_tokens,
        timings=Timings(
            queue_seconds=timings.queue_seconds,
            prompt_seconds=timings.prompt_seconds,
            generate_seconds=timings.generate_seconds,
            draft_tokens=timings.draft_tokens,
            draft_accepted=timings.draft_accepted,
        ),
        prompt_logprobs=_read_logprobs(finished.prompt_logprobs),
        stored_tokens=finished.stored_tokens,
        disk_tokens=finished.disk_tokens,
        tier=finished.tier if finished.HasField("tier") else None,
        saved_seconds=finished.saved_seconds,
    )


def _read_logprobs(entries: Iterable[engine_pb2.TokenLogprob]) -> tuple[TokenLogprob, ...]:
    return tuple(
        TokenLogprob(entry.text, entry.logprob, _read_logprobs(entry.top)) for entry in entries
    )


_READERS: Mapping[str | None, Callable[[engine_pb2.Event], GenerationEvent]] = {
    "queued": _read_waiting,
    "started": _read_started,
    "finished": _read_finished,
}
