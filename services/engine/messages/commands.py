"""What the front sends to a runner."""

from __future__ import annotations

import msgspec

from services.engine.core import (
    CacheKey,
    Constraint,
    Lane,
    LoadConfig,
    Sampling,
    Stopping,
    TextPiece,
)


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
