"""From the messages of engine.proto to the front's requests and the runner's commands.

Every option is set here: from the request, else from the model's defaults (model_defaults.py), else
from the engine's (core.Sampling). A value out of range is an InvalidRequest that names the field.
The other direction is to_proto.py.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterable
from itertools import pairwise

from protos import engine_pb2 as pb
from services.engine.core import CacheKey, Constraint, Lane, Sampling, Stopping, TextPiece, Trigger
from services.engine.front.models.client_request import ClientRequest, RequestListener
from services.engine.front.models.planning.model_settings import (
    ModelSettings,
    validate_model_settings,
)
from services.engine.front.rpc.model_defaults import ModelDefaults
from services.engine.front.rpc.sampling_ranges import (
    DEADLINE_SECONDS_RANGE,
    LOGIT_BIAS_RANGE,
    N_RANGE,
    SAMPLING_RANGES,
    TOP_LOGPROBS_RANGE,
    Range,
)
from services.engine.messages import commands
from services.shared.errors import InvalidRequest
from services.shared.limits import (
    MAX_CUTS,
    MAX_DETOKENIZED_TOKENS,
    MAX_STOP_CHARS,
    MAX_STOP_STRINGS,
    PRIVATE_CACHE_KEY_BYTES,
)

_LANES: dict[int, Lane] = {
    pb.LANE_UNSPECIFIED: Lane.INTERACTIVE,
    pb.LANE_INTERACTIVE: Lane.INTERACTIVE,
    pb.LANE_BACKGROUND: Lane.BACKGROUND,
    pb.LANE_BATCH: Lane.BATCH,
}


OpenRealm = Callable[[str, bytes], tuple[str, tuple[CacheKey, ...]]]  # PromptCache.open_realm


def parse_request(
    message: pb.Submit,
    defaults: ModelDefaults,
    listener: RequestListener,
    open_realm: OpenRealm,
    *,
    now: float,
) -> ClientRequest:
    """Parse a request that has just arrived."""
    keep_alive = message.keep_alive_seconds if message.HasField("keep_alive_seconds") else None
    if keep_alive is not None and math.isnan(keep_alive):
        raise InvalidRequest("keep_alive_seconds is not a number", param="keep_alive_seconds")
    return ClientRequest(
        parse_submit(message, defaults, open_realm),
        listener,
        request_id=message.request_id,
        trace_id=message.trace_id,
        model_name=message.model,
        keep_alive_seconds=keep_alive,
        keep_alive_only_extends=message.keep_alive_only_extends,
        now=now,
    )


def split_prompts(message: pb.Submit) -> list[pb.Submit]:
    """One submit for each prompt of a message: the first is the message itself."""
    further = list(message.further_prompts)
    message.ClearField("further_prompts")
    submits = [message]
    # The first prompt may be large, and each copy would have it.
    options = pb.Submit()
    if further:
        options.CopyFrom(message)
        options.ClearField(message.WhichOneof("prompt") or "text")
    for prompt in further:
        submit = pb.Submit()
        submit.CopyFrom(options)
        submit.request_id = prompt.request_id
        kind = prompt.WhichOneof("prompt") or "text"  # an empty one is refused later
        getattr(submit, kind).CopyFrom(getattr(prompt, kind))
        submits.append(submit)
    return submits


def parse_submit(
    message: pb.Submit, defaults: ModelDefaults, open_realm: OpenRealm
) -> commands.Submit:
    """Parse a request into the runner's command; its id is 0 until a runner gets it."""
    n = message.n or 1
    _check_range(N_RANGE, n, "n")
    top_logprobs = message.top_logprobs if message.HasField("top_logprobs") else None
    if top_logprobs is not None:
        _check_range(TOP_LOGPROBS_RANGE, top_logprobs, "top_logprobs")
    deadline = message.deadline_seconds if message.HasField("deadline_seconds") else None
    if deadline is not None:
        _check_range(DEADLINE_SECONDS_RANGE, deadline, "deadline_seconds")
    lane = _LANES.get(message.lane)
    if lane is None:
        raise InvalidRequest(f"there is no lane {message.lane}", param="lane")
    pieces, tokens = parse_prompt(message)
    if len(message.private_cache_key) not in (0, PRIVATE_CACHE_KEY_BYTES):
        raise InvalidRequest(
            f"a private cache key has {PRIVATE_CACHE_KEY_BYTES} bytes", param="private_cache_key"
        )
    realm, cache_keys = open_realm(message.tenant or message.principal, message.private_cache_key)
    constraint = parse_constraint(message.constraint) if message.HasField("constraint") else None
    return commands.Submit(
        id=0,
        pieces=pieces,
        add_special=message.text.add_special if pieces is not None else False,
        tokens=tokens,
        cuts=_parse_cuts(message.text) if pieces is not None else (),
        infill=(message.infill.prefix, message.infill.suffix)
        if message.HasField("infill")
        else None,
        sampling=parse_sampling(message.sampling, defaults),
        stopping=parse_stopping(message.stopping, defaults),
        constraint=constraint,
        thinking=_parse_thinking(message.thinking) if message.HasField("thinking") else None,
        n=n,
        top_logprobs=top_logprobs,
        prompt_logprobs=message.prompt_logprobs,
        lane=lane,
        principal=message.principal,
        realm=realm,
        deadline_seconds=deadline,
        no_cache=message.no_cache,
        cache_keys=() if message.no_cache else cache_keys,
    )


def parse_pieces(text: pb.PromptText) -> tuple[TextPiece, ...]:
    """Parse the pieces of a text prompt."""
    return tuple(TextPiece(piece.text, piece.literal) for piece in text.pieces)


def parse_tokens(message: pb.DetokenizeRequest) -> tuple[int, ...]:
    """Parse tokens to read. Only the runner knows which ids exist."""
    if len(message.ids) > MAX_DETOKENIZED_TOKENS:
        raise InvalidRequest(f"more than {MAX_DETOKENIZED_TOKENS} tokens", param="tokens")
    return tuple(message.ids)


def parse_sampling(message: pb.Sampling, defaults: ModelDefaults) -> Sampling:
    """Parse the sampling options; the seed is random where neither request nor model sets one."""
    fields: dict[str, float | int] = dict(defaults.sampling)
    for name, allowed in SAMPLING_RANGES.items():
        if message.HasField(name):  # type: ignore[arg-type]
            value = getattr(message, name)
            _check_range(allowed, value, name)
            fields[name] = value
    bias = dict(message.logit_bias)
    for value in bias.values():
        _check_range(LOGIT_BIAS_RANGE, value, "logit_bias")
    seed = message.seed if message.HasField("seed") else defaults.seed
    if seed is None:
        seed = secrets.randbits(63)
    return Sampling(**fields, logit_bias=bias, seed=seed)  # type: ignore[arg-type]


def parse_stopping(message: pb.Stopping, defaults: ModelDefaults) -> Stopping:
    """Parse the conditions that end an answer.

    The model's own stop strings are added to those of the request, unless it ignores the end token.
    """
    strings = tuple(message.strings)
    if "" in strings:
        raise InvalidRequest("a stop string is empty", param="stop")
    if len(strings) > MAX_STOP_STRINGS:
        raise InvalidRequest(f"more than {MAX_STOP_STRINGS} stop strings", param="stop")
    if any(len(text) > MAX_STOP_CHARS for text in strings):
        raise InvalidRequest(f"a stop string has at most {MAX_STOP_CHARS} characters", param="stop")
    if not message.ignore_eos:
        strings += tuple(s for s in defaults.stop if s not in strings)
    requested = message.max_tokens if message.HasField("max_tokens") else None
    max_tokens = defaults.max_tokens if requested is None else requested
    if max_tokens is not None and message.min_tokens > max_tokens:
        raise InvalidRequest("min_tokens is more than max_tokens", param="min_tokens")
    return Stopping(
        max_tokens=max_tokens,
        min_tokens=message.min_tokens,
        strings=strings,
        token_ids=tuple(message.token_ids),
        ignore_eos=message.ignore_eos,
    )


def parse_constraint(message: pb.Constraint) -> Constraint | None:
    """Parse what the answer must match. The runner compiles it."""
    kind = message.WhichOneof("kind")
    if kind is None:
        return None
    source: str = getattr(message, kind)
    if not source:
        raise InvalidRequest(f"the {kind} is empty", param=kind)
    trigger = _parse_trigger(message.trigger) if message.HasField("trigger") else None
    return Constraint(kind, source, message.before, trigger)


def _parse_thinking(message: pb.ThinkingBudget) -> commands.ThinkingBudget:
    if not message.end or max(len(message.start), len(message.end)) > MAX_STOP_CHARS:
        raise InvalidRequest(f"a mark has 1 to {MAX_STOP_CHARS} characters", param="thinking")
    return commands.ThinkingBudget(
        message.start,
        message.end,
        message.is_open,
        message.max_tokens if message.HasField("max_tokens") else None,
        message.spares_answer,
    )


def _parse_trigger(message: pb.Trigger) -> Trigger:
    if not message.text:
        raise InvalidRequest("the trigger of the constraint is empty", param="trigger")
    return Trigger(
        text=message.text,
        thinking_start=message.thinking_start,
        thinking_end=message.thinking_end,
        is_thinking=message.is_thinking,
        only_at_start=message.only_at_start,
    )


def parse_model_settings(message: pb.ModelSettings) -> ModelSettings:
    """Parse the settings of a Load or Plan call. InvalidSettings names the field."""
    fields: dict[str, object] = {
        field.name: value for field, value in message.ListFields() if field.name != "tensor_split"
    }
    if message.tensor_split:
        fields["tensor_split"] = tuple(message.tensor_split)
    for name, value in fields.items():
        _check_no_nan(value, name)
    return validate_model_settings(fields)


def parse_prompt(
    message: pb.Submit | pb.CreatePrefixRequest,
) -> tuple[tuple[TextPiece, ...] | None, tuple[int, ...] | None]:
    """(pieces, None) of a text prompt, (None, tokens) of a token prompt, twice None of an infill."""
    kind = message.WhichOneof("prompt")
    if kind == "tokens":
        ids = tuple(message.tokens.ids)
        if not ids:
            raise InvalidRequest("the prompt has no tokens", param="prompt")
        # The runner's ids are signed 32-bit numbers. Only the runner knows which of them exist.
        if max(ids) >= 1 << 31:
            raise InvalidRequest("a token id of the prompt is out of range", param="prompt")
        return None, ids
    if kind == "text":
        return parse_pieces(message.text), None
    if kind == "infill":
        return None, None
    raise InvalidRequest("the prompt is missing", param="prompt")


def _parse_cuts(text: pb.PromptText) -> tuple[int, ...]:
    cuts = tuple(text.cuts)
    if len(cuts) > MAX_CUTS:
        raise InvalidRequest(f"more than {MAX_CUTS} cuts", param="cuts")
    length = sum(len(piece.text) for piece in text.pieces) if cuts else 0
    if any(cut <= before for before, cut in pairwise((0, *cuts))) or max(cuts, default=0) > length:
        raise InvalidRequest("cuts must ascend within the text", param="cuts")
    return cuts


def _check_range(allowed: Range, value: float, name: str) -> None:
    if not allowed.contains(value):
        raise InvalidRequest(f"{name} must be {allowed}, not {value:g}", param=name)


def _check_no_nan(value: object, name: str) -> None:
    values: Iterable[object] = value if isinstance(value, tuple) else (value,)
    if any(isinstance(v, float) and math.isnan(v) for v in values):
        raise InvalidRequest(f"{name} is not a number", param=name)
