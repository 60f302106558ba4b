"""What happens while a request is answered, for every dialect; errors are raised, not sent.

`index` is the number of an answer, from 0, over all prompts of the request: those of the first
prompt come first. Structs and not dataclasses: a TextDelta is made for every token.
"""

from __future__ import annotations

from enum import Enum

import msgspec


class QueueReason(Enum):
    """Why a request waits."""

    LOADING = "loading"  # its model is being loaded
    MEMORY = "memory"  # its model waits for memory
    SLOTS = "slots"  # other requests go first


class FinishReason(Enum):
    """Why an answer ended."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"  # the model has called tools, and waits for their results


class TokenLogprob(msgspec.Struct, frozen=True):
    """The log-probability of a token. `text` may be a part of a character."""

    text: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


class Waiting(msgspec.Struct, frozen=True):
    """The request waits; `position` 1 is next. Sent again when it changes."""

    position: int
    reason: QueueReason | None


class Started(msgspec.Struct, frozen=True):
    """A prompt is being computed; `cached_tokens` of its tokens were found."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    stored_tokens: int = 0  # of those: they were stored in RAM or on disk
    uses_cuts: bool = False  # the model keeps what it has computed where messages end
    disk_tokens: int = 0  # of the stored tokens: those that came from the disk


class TextDelta(msgspec.Struct, frozen=True, gc=False):
    """More text of an answer; empty where only log-probabilities came."""

    index: int
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


class ReasoningDelta(msgspec.Struct, frozen=True, gc=False):
    """More of what the model thinks before it answers."""

    index: int
    text: str


class ToolCallStarted(msgspec.Struct, frozen=True, gc=False):
    """Call number `call` of an answer, from 0, has begun."""

    index: int
    call: int
    id: str
    name: str


class ToolCallDelta(msgspec.Struct, frozen=True, gc=False):
    """More of a call's arguments; all fragments together are one JSON object."""

    index: int
    call: int
    fragment: str


class ToolCallEnded(msgspec.Struct, frozen=True, gc=False):
    """A call is complete. One without this event was cut off."""

    index: int
    call: int


class Timings(msgspec.Struct, frozen=True):
    """Where the time of one answer went."""

    queue_seconds: float = 0.0  # from arrival to the start of prompt work
    prompt_seconds: float = 0.0  # from there to the first token
    generate_seconds: float = 0.0  # from the first token to the last
    draft_tokens: int = 0
    draft_accepted: int = 0


class Finished(msgspec.Struct, frozen=True):
    """An answer has ended."""

    index: int
    reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    timings: Timings = Timings()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    stored_tokens: int = 0  # of the cached ones: those that were stored in RAM or on disk
    disk_tokens: int = 0  # of those: on disk
    tier: str | None = None  # the slowest that they came from: "ram" or "disk"
    saved_seconds: float = 0.0  # that their computation took when they were stored
    reasoning_tokens: int = 0  # of the completion tokens; see answer_reader.py


PartEvent = ReasoningDelta | ToolCallStarted | ToolCallDelta | ToolCallEnded
GenerationEvent = Waiting | Started | TextDelta | PartEvent | Finished
