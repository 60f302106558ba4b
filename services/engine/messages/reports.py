"""What a runner sends to the front."""

from __future__ import annotations

import msgspec

from services.engine.core import (
    CacheEvent,
    CacheTier,
    Counters,
    FinishReason,
    ModelInfo,
    TokenLogprob,
)

HEARTBEAT_SECONDS = 1.0


class Progress(msgspec.Struct, frozen=True, tag=True):
    """The part of the weights that is loaded, 0 to 1."""

    fraction: float


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The model is loaded. Requests are accepted from now on."""

    info: ModelInfo


class LoadFailed(msgspec.Struct, frozen=True, tag=True):
    """The load failed; the runner exits after this. `code` is the code of a SpindllError."""

    code: str
    message: str


class Queued(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The place in the runner's queue has changed; 1 is next."""

    id: int
    position: int


class Started(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The work on the prompt has begun."""

    id: int
    prompt_tokens: int
    cached_tokens: int
    stored_tokens: int = 0  # of the cached ones: those that came from a tier of the prompt cache
    uses_cuts: bool = False  # `Submit.cuts` are of use to this model
    disk_tokens: int = 0  # of the stored ones: those that came from the disk


class Delta(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Text of answer `index` since its last delta. The `tokens` may have yielded no text yet."""

    id: int
    index: int
    text: str
    tokens: int
    logprobs: tuple[TokenLogprob, ...] = ()


class Finished(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Answer `index` has ended. The request ends with its last answer."""

    id: int
    index: int
    reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    queue_seconds: float
    prompt_seconds: float
    generate_seconds: float
    draft_tokens: int = 0
    draft_accepted: int = 0
    stop_string: str | None = None
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    stored_tokens: int = 0  # of the cached ones: those that came from a tier of the prompt cache
    tier: CacheTier | None = None  # the slowest that they came from
    saved_seconds: float = 0.0  # that their computation took when they were stored
    disk_tokens: int = 0  # of the stored ones: those that came from the disk


class Failed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The whole request has ended with an error, as services.shared.errors.to_wire returns it."""

    id: int
    error: dict[str, object]


RequestEvent = Queued | Started | Delta | Finished | Failed


class StepReport(msgspec.Struct, frozen=True, tag=True):
    """All events of one step."""

    events: list[RequestEvent]


class Tokenized(msgspec.Struct, frozen=True, tag=True):
    """The token ids, or an error as `to_wire` returns it."""

    id: int
    ids: tuple[int, ...] = ()
    error: dict[str, object] | None = None


class Detokenized(msgspec.Struct, frozen=True, tag=True):
    """The text of tokens, or an error as `to_wire` returns it."""

    id: int
    text: str = ""
    error: dict[str, object] | None = None


class Located(msgspec.Struct, frozen=True, tag=True):
    """What is stored of a prompt, or an error as `to_wire` returns it."""

    id: int
    prompt_tokens: int = 0
    stored_tokens: int = 0
    storable_tokens: int = 0  # that are stored at least when all is written; 0: it is too short
    names: tuple[str, ...] = ()  # of the entries
    error: dict[str, object] | None = None


class Embedded(msgspec.Struct, frozen=True, tag=True):
    """The vectors of an `Embed`, or an error as `to_wire` returns it."""

    id: int
    dimensions: int = 0
    vectors: bytes = b""  # float32, little-endian: one row of `dimensions` for each input
    tokens: tuple[int, ...] = ()  # of each input, with the control tokens
    is_probability: bool = False  # of scores: they are in 0 to 1
    error: dict[str, object] | None = None


class MemoryAdded(msgspec.Struct, frozen=True, tag=True):
    """The runner has created the context for embeddings after its load."""

    pool_bytes: dict[str, int]  # by memory pool


class Heartbeat(msgspec.Struct, frozen=True, tag=True):
    """The runner is alive.

    `busy_seconds` is the time that the current call into the backend has taken so far, 0 between
    calls.
    """

    busy_seconds: float
    running: int
    queued: int
    cells_used: int
    counters: Counters


class CacheReport(msgspec.Struct, frozen=True, tag=True):
    """What has happened to entries of the prompt cache; sent once a second at most."""

    events: list[CacheEvent]


Report = (
    Progress
    | Ready
    | LoadFailed
    | StepReport
    | Tokenized
    | Detokenized
    | Located
    | Embedded
    | MemoryAdded
    | Heartbeat
    | CacheReport
)
