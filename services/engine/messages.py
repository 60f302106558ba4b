"""The messages between engine front and runner: msgpack frames over a socket pair.

    frame = uint32 little-endian length, then the msgpack of one Command or one Report

The front sends commands, the runner sends reports. The first command is `Start`. The first reports
are any number of `Progress`, then `Ready` or `LoadFailed`. After each step the runner sends one
`StepReport` with all events of the step. It sends a `Heartbeat` every HEARTBEAT_SECONDS, from a
thread of its own, with the time that the current step has taken so far: with that the front
distinguishes a busy runner from a stuck one.
"""

from __future__ import annotations

import struct

import msgspec

from services.engine.core import (
    CacheEvent,
    CacheKey,
    CacheTier,
    Constraint,
    Counters,
    FinishReason,
    Lane,
    LoadConfig,
    ModelInfo,
    Sampling,
    Stopping,
    TextPiece,
    TokenLogprob,
)

HEARTBEAT_SECONDS = 1.0
MAX_FRAME_BYTES = 256 << 20
HEADER = struct.Struct("<I")


# ---- commands, to the runner


class Start(msgspec.Struct, frozen=True, tag=True):
    """Load a model."""

    config: LoadConfig


class ThinkingBudget(msgspec.Struct, frozen=True, array_like=True):
    """How long an answer may think at its start; then the end mark is written for the model."""

    start: str
    end: str
    is_open: bool = False  # the answer begins inside the thinking
    max_tokens: int | None = None
    spares_answer: bool = False  # some of the answer's tokens are for what follows the thinking


class Submit(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Start a request. Exactly one of `pieces`, `tokens` and `infill` is set."""

    id: int  # chosen by the front, unique while the runner lives
    pieces: tuple[TextPiece, ...] | None = None
    add_special: bool = False
    tokens: tuple[int, ...] | None = None
    # Where messages end in the pieces, in characters of all of them together, ascending: the state
    # there is kept for other prompts, by models that cannot share any token's.
    cuts: tuple[int, ...] = ()
    infill: tuple[str, str] | None = None  # what comes before and after the text to write
    sampling: Sampling
    stopping: Stopping
    constraint: Constraint | None = None
    thinking: ThinkingBudget | None = None
    n: int = 1
    top_logprobs: int | None = None
    prompt_logprobs: bool = False
    lane: Lane = Lane.INTERACTIVE
    principal: str = ""  # for fairness
    realm: str = ""  # computed tokens are shared, and reported as cached, only within it
    deadline_seconds: float | None = None  # from the time when the runner reads this frame
    no_cache: bool = False
    # For what is stored of computed prompts, the newest first; none: nothing is stored or read.
    cache_keys: tuple[CacheKey, ...] = ()
    stores_always: bool = False  # what it computes, also where the policy is second_use


class Locate(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Find what is stored of a named prefix, keep it, and bring it from the disk into RAM.

    The answer is a `Located` with the same id. As in Submit, one of `pieces` and `tokens` is set.
    """

    id: int
    pieces: tuple[TextPiece, ...] | None = None
    add_special: bool = False
    tokens: tuple[int, ...] | None = None
    principal: str = ""  # who made it
    cache_keys: tuple[CacheKey, ...]


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """Stop these requests. Unknown ids are fine."""

    ids: tuple[int, ...]


class Tokenize(msgspec.Struct, frozen=True, tag=True):
    """Tokenise a text. The answer is a `Tokenized` with the same id."""

    id: int
    pieces: tuple[TextPiece, ...]
    add_special: bool = False
    principal: str = ""


class Detokenize(msgspec.Struct, frozen=True, tag=True):
    """Turn tokens into their text. The answer is a `Detokenized` with the same id."""

    id: int
    tokens: tuple[int, ...]
    principal: str = ""


class EmbedInput(msgspec.Struct, frozen=True, array_like=True):
    """One text, or its tokens."""

    text: str = ""
    tokens: tuple[int, ...] | None = None


class Embed(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Compute one vector for each input, or score each for a query.

    The answer is an `Embedded` with the same id. A `Cancel` with the id stops it.
    """

    id: int
    inputs: tuple[EmbedInput, ...]
    query: str | None = None  # the inputs are documents to rank for it
    truncate: bool = False  # shorten an input that is too long; otherwise it is an error
    dimensions: int = 0  # the first so many numbers of each vector, normalised; 0: all
    normalize: bool = True  # to length 1
    principal: str = ""  # for fairness


class Stop(msgspec.Struct, frozen=True, tag=True):
    """Accept no more requests, finish the running ones within the time, then exit with 0."""

    drain_seconds: float = 0.0


Command = Start | Submit | Cancel | Tokenize | Detokenize | Locate | Embed | Stop


# ---- reports, from the runner


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

_encoder = msgspec.msgpack.Encoder()
command_decoder: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
report_decoder: msgspec.msgpack.Decoder[Report] = msgspec.msgpack.Decoder(Report)


def encode_frame(message: Command | Report) -> bytes:
    """Encode one message as a frame."""
    body = _encoder.encode(message)
    return HEADER.pack(len(body)) + body
