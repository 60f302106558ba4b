"""The contract between the loop of a runner and a batcher.

A batcher turns requests into tokens, many at once and in an order of its own. `StepBatcher` does
that over a backend that computes one forward pass at a time; an engine that batches and samples
itself fits behind the same contract. Text, stop strings and limits are not the batcher's: it gives
each token to its `Answer`, which reports when it is over.

Everything but `vocabulary` and `store` is used on one thread only, the one that opened the batcher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from services.engine.backends.base import Vocabulary
from services.engine.backends.pooling import PooledModel
from services.engine.core import (
    CacheTier,
    Counters,
    FinishReason,
    Lane,
    ModelInfo,
    TokenLogprob,
)
from services.engine.runner.kvcache.chain import Chain
from services.engine.runner.kvcache.store import PromptStore
from services.engine.runner.sampling.row import Row
from services.shared.errors import SpindllError


class Answer(Protocol):
    """One answer of a request, as the batcher uses it."""

    @property
    def reason(self) -> FinishReason | None:
        """Why the answer is over; None while it continues."""

    @property
    def top_logprobs(self) -> int | None:
        """How many alternatives to report with each token; None: no log-probabilities at all."""

    @property
    def is_greedy(self) -> bool:
        """Whether `pick` is always the index of the largest number of its row.

        A batcher that samples by itself may then do so, and only `write` the token.
        """

    def pick(self, row: Row) -> int:
        """Choose the next token from a row of logits. Changes nothing, so drafts may be verified.

        Raises SpindllError where no token can be chosen.
        """

    def write(self, token: int, logprob: TokenLogprob | None = None) -> bool:
        """Append the token; False if the answer ends before it, as at an end token.

        `reason` is set when the answer is over, which may be together with its last token.
        """


@dataclass(frozen=True, slots=True, eq=False)
class BatchRequest:
    """One prompt and the answers to it."""

    id: int
    prompt: list[int]  # tokens; not empty
    answers: Sequence[Answer]
    max_length: int  # tokens of the prompt and of one answer
    lane: Lane = Lane.INTERACTIVE
    principal: str = ""  # for fairness
    realm: str = ""  # computed tokens are shared only within it
    arrived_at: float = 0.0  # on the monotonic clock, in seconds
    deadline: float | None = None  # on the same clock
    is_shareable: bool = True  # may share computed tokens with other requests
    prompt_logprobs: int | None = None  # as `Answer.top_logprobs`, for the tokens of the prompt
    chain: Chain | None = None  # of the prompt, in the store; None: nothing is stored or fetched
    cuts: tuple[int, ...] = ()  # ascending lengths at which other prompts may part from this one


class Waiting(msgspec.Struct, frozen=True):
    """The request's place in the queue has changed; 1 is next."""

    id: int
    position: int


class Begun(msgspec.Struct, frozen=True):
    """The work on the prompt has begun, after the `cached_tokens` that are computed already.

    `stored_tokens` of those came from a tier of the prompt cache, `disk_tokens` of these from disk.
    """

    id: int
    cached_tokens: int
    stored_tokens: int = 0
    disk_tokens: int = 0


class PromptScored(msgspec.Struct, frozen=True):
    """Log-probabilities of the next tokens of the prompt, of all but its first one."""

    id: int
    entries: Sequence[TokenLogprob]


class Written(msgspec.Struct, frozen=True):
    """Answer `index` has new tokens."""

    id: int
    index: int


class Ended(msgspec.Struct, frozen=True):
    """Answer `index` is over. The request ends with its last answer."""

    id: int
    index: int
    cached_tokens: int = 0
    draft_tokens: int = 0
    draft_accepted: int = 0
    stored_tokens: int = 0  # of the cached ones: those that came from a tier of the prompt cache
    tier: CacheTier | None = None  # the slowest that they came from
    saved_seconds: float = 0.0  # that their computation took when they were stored
    disk_tokens: int = 0  # of the stored ones: those that came from the disk


class Failed(msgspec.Struct, frozen=True):
    """The whole request has ended with an error."""

    id: int
    error: SpindllError


BatchEvent = Waiting | Begun | PromptScored | Written | Ended | Failed


@dataclass(frozen=True, slots=True)
class BatcherState:
    """How busy a batcher is. Immutable, so any thread may read it."""

    running: int = 0  # answers
    queued: int = 0  # answers
    cells_used: int = 0  # tokens in memory, those of idle sequences included
    failed_steps: int = 0  # in a row
    saving: int = 0  # computed prompts that still have to be copied for the store

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do until a request is added."""
        return not (self.running or self.queued or self.saving)


class Batcher(Protocol):
    """Continuous batching for one loaded model."""

    @property
    def info(self) -> ModelInfo:
        """The facts that loading revealed."""

    @property
    def vocabulary(self) -> Vocabulary:
        """Any thread may use it, until `close`."""

    @property
    def pooled(self) -> PooledModel | None:
        """For embeddings and ranking; None where the batcher's model computes none."""

    @property
    def store(self) -> PromptStore | None:
        """The store of computed prompts, which `close` does not close. None: nothing is stored."""

    @property
    def uses_cuts(self) -> bool:
        """Whether `BatchRequest.cuts` are of use: what is computed cannot be shared at any token."""

    @property
    def counters(self) -> Counters:
        """Totals, always the same object. The batcher counts computed tokens, steps and their time."""

    def add(self, request: BatchRequest) -> None:
        """Queue a request. Raises InvalidRequest, ContextLengthExceeded or EngineBusy."""

    def cancel(self, request_id: int) -> list[Ended]:
        """Forget a request; returns its unfinished answers. An unknown id is fine.

        What was computed for it may be used by others.
        """

    def step(self, now: float) -> list[BatchEvent]:
        """Compute one step, and return what it changed. Call it only while it is not idle.

        `now` is on the clock of `BatchRequest.arrived_at`, and that of the counters.

        An error of one request becomes a `Failed` event; a failed computation fails the requests of
        the step, and counts in `BatcherState.failed_steps`.
        """

    def read_state(self) -> BatcherState:
        """The state after the last call of any of these."""

    def close(self) -> None:
        """Free the model and everything else. Safe to call twice."""
