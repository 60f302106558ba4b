"""The frames between engine front and runner: msgpack over a socket pair, length first.

    frame = uint32 little-endian length, then msgpack of one Command (to the runner) or Report (back)

The runner's first frame is `Start`, its first answers are `Progress`* and then `Ready` or
`LoadFailed`. After each step it writes one `StepReport` with everything that happened in it. `Heartbeat` comes
at least every BEAT_SECONDS, from a thread of its own, and tells how long the current step has been
running, so that the front can tell a busy runner from a stuck one.
"""

from __future__ import annotations

import struct

import msgspec

from services.engine.core import (
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


# ---- to the runner


class Start(msgspec.Struct, frozen=True, tag=True):
    """Load this."""

    config: LoadConfig


class Submit(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """One request. Exactly one of `pieces` and `tokens` is given."""

    id: int  # unique while the runner lives; the front chose it
    pieces: tuple[TextPiece, ...] | None = None
    add_special: bool = False
    tokens: tuple[int, ...] | None = None
    sampling: Sampling
    stopping: Stopping
    constraint: Constraint | None = None
    n: int = 1
    top_logprobs: int | None = None
    prompt_logprobs: bool = False
    lane: Lane = Lane.INTERACTIVE
    principal: str = ""
    deadline_seconds: float | None = None  # from when the runner reads this frame
    no_cache: bool = False


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """Stop these; unknown ids are fine."""

    ids: tuple[int, ...]


class Tokenize(msgspec.Struct, frozen=True, tag=True):
    """Answered by `Tokenized` with the same id."""

    id: int
    pieces: tuple[TextPiece, ...]
    add_special: bool = False


class Stop(msgspec.Struct, frozen=True, tag=True):
    """Accept nothing more, finish what runs within the time, then exit 0."""

    drain_seconds: float = 0.0


Command = Start | Submit | Cancel | Tokenize | Stop


# ---- from the runner


class Progress(msgspec.Struct, frozen=True, tag=True):
    """How much of the weights is loaded, 0 to 1."""

    fraction: float


class Ready(msgspec.Struct, frozen=True, tag=True):
    """Requests are welcome."""

    info: ModelInfo


class LoadFailed(msgspec.Struct, frozen=True, tag=True):
    """The runner exits after this. `code` is a SpindllError's."""

    code: str
    message: str


class Queued(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Place in the runner's queue, 1 is next; said when it changes."""

    id: int
    position: int


class Started(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Prompt work begins."""

    id: int
    prompt_tokens: int
    cached_tokens: int


class Delta(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Text of answer `index` since the last one; `tokens` of them, perhaps with no text yet."""

    id: int
    index: int
    text: str
    tokens: int
    logprobs: tuple[TokenLogprob, ...] = ()


class Finished(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Answer `index` ended. The request ends with its last answer."""

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


class Failed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The whole request ended with an error; `error` is services.shared.errors.to_wire's."""

    id: int
    error: dict[str, object]


RequestEvent = Queued | Started | Delta | Finished | Failed


class StepReport(msgspec.Struct, frozen=True, tag=True):
    """All that happened in one turn of the loop."""

    events: list[RequestEvent]


class Tokenized(msgspec.Struct, frozen=True, tag=True):
    """The ids, or an error as `to_wire` gives it."""

    id: int
    ids: tuple[int, ...] = ()
    error: dict[str, object] | None = None


class Heartbeat(msgspec.Struct, frozen=True, tag=True):
    """Alive. `busy_seconds`: how long the call into the backend has been going on; 0 between."""

    busy_seconds: float
    running: int
    queued: int
    cells_used: int
    resident_bytes: int
    counters: Counters


Report = Progress | Ready | LoadFailed | StepReport | Tokenized | Heartbeat

_encoder = msgspec.msgpack.Encoder()
command_decoder: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
report_decoder: msgspec.msgpack.Decoder[Report] = msgspec.msgpack.Decoder(Report)


def encode_frame(message: Command | Report) -> bytes:
    """One message, ready to be written."""
    body = _encoder.encode(message)
    return HEADER.pack(len(body)) + body
