"""Answers: what happened to requests, and how things stand, as engine.proto's messages."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence

from protos import engine_pb2 as pb
from services.engine import messages
from services.engine.core import Counters, FinishReason, TokenLogprob
from services.engine.front.models.loaded_model import Model, State
from services.engine.front.models.memory_queue import LoadPreview, MemoryTotals
from services.engine.front.models.request import Waiting, WaitReason
from services.engine.front.rpc.event_queue import Item, MergedDelta, Said
from services.engine.memory.plan import Action

_FINISH = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.CANCELLED: pb.FINISH_REASON_CANCELLED,
}
_WAIT = {
    WaitReason.LOADING: pb.QUEUE_REASON_LOADING,
    WaitReason.MEMORY: pb.QUEUE_REASON_MEMORY,
}
_STATE = {
    State.WAITING: pb.MODEL_STATE_WAITING,
    State.LOADING: pb.MODEL_STATE_LOADING,
    State.READY: pb.MODEL_STATE_READY,
    State.STOPPING: pb.MODEL_STATE_STOPPING,
}
_ACTION = {
    Action.LOAD: pb.PLAN_ACTION_LOAD,
    Action.EVICT: pb.PLAN_ACTION_EVICT,
    Action.WAIT: pb.PLAN_ACTION_WAIT,
    Action.IMPOSSIBLE: pb.PLAN_ACTION_IMPOSSIBLE,
}


def frame_of(items: Iterable[Item]) -> pb.EngineFrame:
    """One message with all of it."""
    frame = pb.EngineFrame()
    add = frame.events.add
    for request_id, item in items:
        if isinstance(item, MergedDelta):
            _put_delta(add(request_id=request_id, index=item.index).delta, item)
        else:
            _put(add(request_id=request_id), item)
    return frame


def loaded_of(
    models: Sequence[Model],
    backing_off: Iterable[str],
    memory: MemoryTotals,
    *,
    problems: Iterable[str],
    now: float,
) -> pb.LoadedResponse:
    """How things stand."""
    left_alone = [
        pb.LoadedModel(name=name, state=pb.MODEL_STATE_BACKING_OFF) for name in backing_off
    ]
    return pb.LoadedResponse(
        models=[model_of(model, now=now) for model in models] + left_alone,
        devices=[
            pb.DeviceMemory(
                name=pool.label or pool.name,
                kind=pool.kind,
                total_bytes=pool.total_bytes,
                free_bytes=pool.free_bytes,
            )
            for pool in memory.pools
        ],
        budget_bytes=memory.budget_bytes,
        used_bytes=max(memory.promised_bytes, 0),
        problems=list(problems),
    )


def model_of(model: Model, *, now: float) -> pb.LoadedModel:
    """One model; `now` is loop time, what goes out is unix time."""
    info, beat, config, footprint = model.info, model.beat, model.config, model.footprint
    queued = beat.queued if beat is not None else 0
    message = pb.LoadedModel(
        name=model.name,
        digest=model.key,
        state=_STATE[model.state],
        memory_bytes=footprint.need_bytes if footprint is not None else 0,
        context_length=info.context_length if info else config.context_length if config else 0,
        gpu_layers=info.gpu_layers if info is not None else 0,
        running=max(model.running_count - queued, 0),
        queued=queued + len(model.waiting),
        max_sequences=config.max_sequences if config is not None else 0,
        load_progress=1.0 if info is not None else model.progress,
        pinned=model.is_pinned,
        backend=config.backend if config is not None else "",
        pid=model.link.pid if model.link is not None else 0,
        memory_policy=info.memory_policy.value if info is not None else "",
    )
    if beat is not None:
        message.counters.CopyFrom(_counters(beat.counters))
    if (expires_at := model.expires_at) is not None:
        message.expires_at = time.time() + max(expires_at - now, 0.0)
    return message


def plan_of(report: LoadPreview) -> pb.PlanResponse:
    """A plan, with its numbers."""
    footprint, decision = report.footprint, report.decision
    return pb.PlanResponse(
        action=pb.PLAN_ACTION_LOADED if decision is None else _ACTION[decision.action],
        evict=report.evict,
        weights_bytes=footprint.weights_bytes,
        kv_bytes=footprint.kv_bytes,
        compute_bytes=footprint.compute_bytes,
        reserve_bytes=sum(footprint.reserve_bytes.values()),
        free_bytes=max(report.free_bytes, 0),
        budget_bytes=report.budget_bytes,
        context_length=footprint.context_length,
        fitting_context_length=report.fitting_context_length,
        explanation="it is loaded" if decision is None else decision.why,
        source=footprint.source,
    )


def _put_delta(message: pb.Delta, delta: MergedDelta) -> None:
    pieces = delta.pieces
    message.text = pieces[0] if len(pieces) == 1 else "".join(pieces)
    message.tokens = delta.tokens
    if delta.logprobs:
        message.logprobs.extend(_logprobs(delta.logprobs))


def _put(event: pb.Event, item: Said) -> None:
    match item:
        case messages.Finished():
            event.index = item.index
            event.finished.CopyFrom(_finished(item))
        case messages.Started():
            event.started.prompt_tokens = item.prompt_tokens
            event.started.cached_tokens = item.cached_tokens
        case messages.Queued():
            event.queued.position = item.position
            event.queued.reason = pb.QUEUE_REASON_SLOTS
        case Waiting():
            event.queued.position = item.position
            event.queued.reason = _WAIT[item.reason]
        case messages.Failed():
            event.error.CopyFrom(error_of(item.error))


def error_of(error: dict[str, object]) -> pb.Error:
    """An error as `to_wire` gives it."""
    message = pb.Error(code=str(error.get("code", "")), message=str(error.get("message", "")))
    if (param := error.get("param")) is not None:
        message.param = str(param)
    retry = error.get("retry_after_seconds")
    if isinstance(retry, int | float):
        message.retry_after_seconds = retry
    if details := error.get("details"):
        message.details = json.dumps(details)
    return message


def _finished(item: messages.Finished) -> pb.Finished:
    return pb.Finished(
        reason=_FINISH[item.reason],
        prompt_tokens=item.prompt_tokens,
        cached_tokens=item.cached_tokens,
        completion_tokens=item.completion_tokens,
        timings=pb.Timings(
            queue_seconds=item.queue_seconds,
            prompt_seconds=item.prompt_seconds,
            generate_seconds=item.generate_seconds,
            draft_tokens=item.draft_tokens,
            draft_accepted=item.draft_accepted,
        ),
        stop_string=item.stop_string,
        prompt_logprobs=_logprobs(item.prompt_logprobs),
    )


def _logprobs(entries: Iterable[TokenLogprob]) -> list[pb.TokenLogprob]:
    return [
        pb.TokenLogprob(token=e.token, text=e.text, logprob=e.logprob, top=_logprobs(e.top))
        for e in entries
    ]


def _counters(counters: Counters) -> pb.RunnerCounters:
    return pb.RunnerCounters(
        prompt_tokens=counters.prompt_tokens,
        computed_tokens=counters.computed_tokens,
        completion_tokens=counters.completion_tokens,
        steps=counters.steps,
        decode_seconds=counters.decode_seconds,
        step_seconds=counters.step_seconds,
        preemptions=counters.preemptions,
        draft_tokens=counters.draft_tokens,
        draft_accepted=counters.draft_accepted,
    )
