"""Requests: from engine.proto's messages to the runner's commands, everything filled in.

Defaults: the request, then the model's own (defaults.py), then the engine's (core.Sampling).
What is out of range is an InvalidRequest that names the field. Answers: events.py.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable

from protos import engine_pb2 as pb
from services.engine import messages
from services.engine.core import Constraint, Lane, Sampling, Stopping, TextPiece
from services.engine.front.models.model_settings import ModelSettings, check
from services.engine.front.models.request import Listener, Request
from services.engine.front.rpc.model_defaults import ModelDefaults
from services.engine.front.rpc.sampling_ranges import (
    ANSWERS,
    DEADLINE_SECONDS,
    LOGIT_BIAS,
    SAMPLING,
    STOP_STRINGS_MOST,
    TOP_LOGPROBS,
    Range,
)
from services.shared.errors import InvalidRequest

_LANES: dict[int, Lane] = {
    pb.LANE_UNSPECIFIED: Lane.INTERACTIVE,
    pb.LANE_INTERACTIVE: Lane.INTERACTIVE,
    pb.LANE_BACKGROUND: Lane.BACKGROUND,
    pb.LANE_BATCH: Lane.BATCH,
}


def request_of(
    message: pb.Submit, defaults: ModelDefaults, listener: Listener, *, now: float
) -> Request:
    """A request as it came in."""
    keep = message.keep_alive_seconds if message.HasField("keep_alive_seconds") else None
    if keep is not None and math.isnan(keep):
        raise InvalidRequest("keep_alive_seconds is not a number", param="keep_alive_seconds")
    return Request(
        submit_of(message, defaults),
        listener,
        request_id=message.request_id,
        trace_id=message.trace_id,
        model=message.model,
        keep_alive_seconds=keep,
        now=now,
    )


def submit_of(message: pb.Submit, defaults: ModelDefaults) -> messages.Submit:
    """The runner's command for a request; its id is 0 until a runner gets it."""
    n = message.n or 1
    _require(ANSWERS, n, "n")
    top_logprobs = message.top_logprobs if message.HasField("top_logprobs") else None
    if top_logprobs is not None:
        _require(TOP_LOGPROBS, top_logprobs, "top_logprobs")
    deadline = message.deadline_seconds if message.HasField("deadline_seconds") else None
    if deadline is not None:
        _require(DEADLINE_SECONDS, deadline, "deadline_seconds")
    lane = _LANES.get(message.lane)
    if lane is None:
        raise InvalidRequest(f"there is no lane {message.lane}", param="lane")
    pieces, tokens = _prompt(message)
    return messages.Submit(
        id=0,
        pieces=pieces,
        add_special=message.text.add_special if pieces is not None else False,
        tokens=tokens,
        sampling=sampling_of(message.sampling, defaults),
        stopping=stopping_of(message.stopping, defaults),
        constraint=constraint_of(message.constraint) if message.HasField("constraint") else None,
        n=n,
        top_logprobs=top_logprobs,
        prompt_logprobs=message.prompt_logprobs,
        lane=lane,
        principal=message.principal,
        deadline_seconds=deadline,
        no_cache=message.no_cache,
    )


def pieces_of(text: pb.PromptText) -> tuple[TextPiece, ...]:
    """The parts of a text prompt."""
    return tuple(TextPiece(piece.text, piece.literal) for piece in text.pieces)


def sampling_of(message: pb.Sampling, defaults: ModelDefaults) -> Sampling:
    """Every option set; a seed is drawn where none was given."""
    fields: dict[str, float | int] = dict(defaults.sampling)
    for name, bounds in SAMPLING.items():
        if message.HasField(name):  # type: ignore[arg-type]
            value = getattr(message, name)
            _require(bounds, value, name)
            fields[name] = value
    bias = dict(message.logit_bias)
    for value in bias.values():
        _require(LOGIT_BIAS, value, "logit_bias")
    seed = message.seed if message.HasField("seed") else defaults.seed
    if seed is None:
        seed = secrets.randbits(63)
    return Sampling(**fields, logit_bias=bias, seed=seed)  # type: ignore[arg-type]


def stopping_of(message: pb.Stopping, defaults: ModelDefaults) -> Stopping:
    """When the answer ends. The model's own stop strings go for every answer of it."""
    strings = tuple(message.strings)
    if "" in strings:
        raise InvalidRequest("a stop string is empty", param="stop")
    if len(strings) > STOP_STRINGS_MOST:
        raise InvalidRequest(f"more than {STOP_STRINGS_MOST} stop strings", param="stop")
    if not message.ignore_eos:
        strings += tuple(s for s in defaults.stop if s not in strings)
    given = message.max_tokens if message.HasField("max_tokens") else None
    max_tokens = defaults.max_tokens if given is None else given
    if max_tokens is not None and message.min_tokens > max_tokens:
        raise InvalidRequest("min_tokens is more than max_tokens", param="min_tokens")
    return Stopping(
        max_tokens=max_tokens,
        min_tokens=message.min_tokens,
        strings=strings,
        token_ids=tuple(message.token_ids),
        ignore_eos=message.ignore_eos,
    )


def constraint_of(message: pb.Constraint) -> Constraint | None:
    """What the answer must match; the runner compiles it."""
    kind = message.WhichOneof("kind")
    if kind is None:
        return None
    source: str = getattr(message, kind)
    if not source:
        raise InvalidRequest(f"the {kind} is empty", param=kind)
    return Constraint(kind, source)


def settings_of(message: pb.ModelSettings) -> ModelSettings:
    """How to load. InvalidSettings names the field."""
    fields: dict[str, object] = {
        field.name: value for field, value in message.ListFields() if field.name != "tensor_split"
    }
    if message.tensor_split:
        fields["tensor_split"] = tuple(message.tensor_split)
    for name, value in fields.items():
        _require_number(value, name)
    return check(fields)


def _prompt(message: pb.Submit) -> tuple[tuple[TextPiece, ...] | None, tuple[int, ...] | None]:
    """Pieces or tokens, whichever was given."""
    kind = message.WhichOneof("prompt")
    if kind == "tokens":
        ids = tuple(message.tokens.ids)
        if not ids:
            raise InvalidRequest("the prompt has no tokens", param="prompt")
        # The runner's ids are signed; which of them exist only it knows.
        if max(ids) >= 1 << 31:
            raise InvalidRequest("a token id of the prompt is out of range", param="prompt")
        return None, ids
    if kind == "text":
        return pieces_of(message.text), None
    raise InvalidRequest("the prompt is missing", param="prompt")


def _require(bounds: Range, value: float, name: str) -> None:
    if not bounds.allow(value):
        raise InvalidRequest(f"{name} must be {bounds}, not {value:g}", param=name)


def _require_number(value: object, name: str) -> None:
    values: Iterable[object] = value if isinstance(value, tuple) else (value,)
    if any(isinstance(v, float) and math.isnan(v) for v in values):
        raise InvalidRequest(f"{name} is not a number", param=name)
