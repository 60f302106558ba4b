"""From the front's events, models and plans to the messages of engine.proto."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence

from protos import engine_pb2 as pb
from services.engine.core import Counters, FinishReason, TokenLogprob
from services.engine.front.models.client_request import QueuePosition, QueueReason, RequestItem
from services.engine.front.models.loaded_model import LoadedModel
from services.engine.front.models.memory_queue import LoadPreview, MemoryTotals
from services.engine.front.models.model_state import ModelState
from services.engine.front.rpc.event_queue import MergedDelta, QueueItem
from services.engine.memory.plan import Action
from services.engine.messages import reports

_FINISH_REASONS = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.CANCELLED: pb.FINISH_REASON_CANCELLED,
}
_QUEUE_REASONS = {
    QueueReason.LOADING: pb.QUEUE_REASON_LOADING,
    QueueReason.MEMORY: pb.QUEUE_REASON_MEMORY,
}
_STATES = {
    ModelState.WAITING: pb.MODEL_STATE_WAITING,
    ModelState.LOADING: pb.MODEL_STATE_LOADING,
    ModelState.READY: pb.MODEL_STATE_READY,
    ModelState.STOPPING: pb.MODEL_STATE_STOPPING,
}
_ACTIONS = {
    Action.LOAD: pb.PLAN_ACTION_LOAD,
    Action.EVICT: pb.PLAN_ACTION_EVICT,
    Action.WAIT: pb.PLAN_ACTION_WAIT,
    Action.IMPOSSIBLE: pb.PLAN_ACTION_IMPOSSIBLE,
}


def build_frame(items: Iterable[QueueItem]) -> pb.EngineFrame:
    """Build one message with all the events."""
    frame = pb.EngineFrame()
    add = frame.events.add
    for request_id, item in items:
        if isinstance(item, MergedDelta):
            _fill_delta(add(request_id=request_id, index=item.index).delta, item)
        else:
            _fill_event(add(request_id=request_id), item)
    return frame


def build_loaded_response(
    models: Sequence[LoadedModel],
    backing_off: Iterable[str],
    memory: MemoryTotals,
    *,
    problems: Iterable[str],
    now: float,
) -> pb.LoadedResponse:
    """Build the answer of Loaded: the models, the memory, and the recent problems."""
    not_in_pool = [
        pb.LoadedModel(name=name, state=pb.MODEL_STATE_BACKING_OFF) for name in backing_off
    ]
    return pb.LoadedResponse(
        models=[build_loaded_model(model, now=now) for model in models] + not_in_pool,
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
        used_bytes=max(memory.committed_bytes, 0),
        problems=list(problems),
    )


def build_loaded_model(model: LoadedModel, *, now: float) -> pb.LoadedModel:
    """Build one model's entry. `now` is loop time; the message has Unix time."""
    info, config, footprint = model.info, model.config, model.footprint
    heartbeat = model.heartbeat
    queued = heartbeat.queued if heartbeat is not None else 0
    message = pb.LoadedModel(
        name=model.name,
        digest=model.key,
        state=_STATES[model.state],
        memory_bytes=footprint.need_bytes if footprint is not None else 0,
        context_length=info.context_length if info else config.context_length if config else 0,
        gpu_layers=info.gpu_layers if info is not None else 0,
        running=max(model.running_count - queued, 0),
        queued=queued + len(model.waiting),
        max_sequences=config.max_sequences if config is not None else 0,
        load_progress=1.0 if info is not None else model.load_progress,
        pinned=model.is_pinned,
        backend=config.backend if config is not None else "",
        pid=model.runner.pid if model.runner is not None else 0,
        memory_policy=info.memory_policy.value if info is not None else "",
    )
    if heartbeat is not None:
        message.counters.CopyFrom(_build_counters(heartbeat.counters))
    if (expires_at := model.expires_at) is not None:
        message.expires_at = time.time() + max(expires_at - now, 0.0)
    return message


def build_plan_response(preview: LoadPreview) -> pb.PlanResponse:
    """Build the answer of Plan."""
    footprint, decision = preview.footprint, preview.decision
    return pb.PlanResponse(
        action=pb.PLAN_ACTION_LOADED if decision is None else _ACTIONS[decision.action],
        evict=preview.evict,
        weights_bytes=footprint.weights_bytes,
        kv_bytes=footprint.kv_bytes,
        compute_bytes=footprint.compute_bytes,
        reserve_bytes=sum(footprint.reserve_bytes.values()),
        free_bytes=max(preview.free_bytes, 0),
        budget_bytes=preview.budget_bytes,
        context_length=footprint.context_length,
        fitting_context_length=preview.fitting_context_length,
        explanation="it is loaded" if decision is None else decision.explanation,
        source=footprint.source,
    )


def _fill_delta(message: pb.Delta, delta: MergedDelta) -> None:
    pieces = delta.pieces
    message.text = pieces[0] if len(pieces) == 1 else "".join(pieces)
    message.tokens = delta.tokens
    if delta.logprobs:
        message.logprobs.extend(_build_logprobs(delta.logprobs))


def _fill_event(event: pb.Event, item: RequestItem) -> None:
    match item:
        case reports.Finished():
            event.index = item.index
            event.finished.CopyFrom(_build_finished(item))
        case reports.Started():
            event.started.prompt_tokens = item.prompt_tokens
            event.started.cached_tokens = item.cached_tokens
            event.started.stored_tokens = item.stored_tokens
            event.started.uses_cuts = item.uses_cuts
            event.started.disk_tokens = item.disk_tokens
        case reports.Queued():
            event.queued.position = item.position
            event.queued.reason = pb.QUEUE_REASON_SLOTS
        case QueuePosition():
            event.queued.position = item.position
            event.queued.reason = _QUEUE_REASONS[item.reason]
        case reports.Failed():
            event.error.CopyFrom(build_error(item.error))


def build_error(error: dict[str, object]) -> pb.Error:
    """Build an error from the dictionary that `to_wire` returns."""
    message = pb.Error(code=str(error.get("code", "")), message=str(error.get("message", "")))
    if (param := error.get("param")) is not None:
        message.param = str(param)
    retry = error.get("retry_after_seconds")
    if isinstance(retry, int | float):
        message.retry_after_seconds = retry
    if details := error.get("details"):
        message.details = json.dumps(details)
    return message


def _build_finished(item: reports.Finished) -> pb.Finished:
    return pb.Finished(
        reason=_FINISH_REASONS[item.reason],
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
        prompt_logprobs=_build_logprobs(item.prompt_logprobs),
        stored_tokens=item.stored_tokens,
        tier=item.tier,
        saved_seconds=item.saved_seconds,
        disk_tokens=item.disk_tokens,
    )


def _build_logprobs(entries: Iterable[TokenLogprob]) -> list[pb.TokenLogprob]:
    return [
        pb.TokenLogprob(token=e.token, text=e.text, logprob=e.logprob, top=_build_logprobs(e.top))
        for e in entries
    ]


def _build_counters(counters: Counters) -> pb.RunnerCounters:
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
        embedded_texts=counters.embedded_texts,
        embedded_tokens=counters.embedded_tokens,
    )
