"""One answer while it is generated: from logits to tokens to text.

    logits ─► sampler (constraint, bans) ─► token ─► end token? ─► text ─► delta

An answer ends at an end token, a stop string or a stop token id, or when its constraint is
complete, max_tokens is reached or the context is full. A constraint with a trigger ends no answer:
it begins where the text shows the trigger, and is over when it is complete. A thinking that is too
long is ended by tokens that no sampler chooses. This code runs once per token of every answer, so
the constructor computes what does not change.
"""

from __future__ import annotations

from services.engine.backends.base import Vocabulary
from services.engine.core import FinishReason, TokenLogprob
from services.engine.messages.commands import Submit
from services.engine.messages.reports import Delta
from services.engine.runner.requests.detokenizer import Detokenizer
from services.engine.runner.requests.lazy_constraint import LazyConstraint
from services.engine.runner.requests.structured_output import ConstraintState
from services.engine.runner.requests.thinking import ThinkingLimit
from services.engine.runner.sampling.row import Row
from services.engine.runner.sampling.sampler import Sampler


class TextAnswer:
    """See Answer. It is answer `index` of a request. The loop's thread only."""

    def __init__(
        self,
        submit: Submit,
        index: int,
        vocabulary: Vocabulary,
        sampler: Sampler,
        *,
        max_tokens: int,
        constraint: ConstraintState | LazyConstraint | None = None,
        thinking: ThinkingLimit | None = None,
    ) -> None:
        """`max_tokens`: the request's own limit, or what the context leaves if that is less."""
        stopping = submit.stopping
        self.index = index
        self.reason: FinishReason | None = None
        self.top_logprobs = submit.top_logprobs
        self.completion_tokens = 0
        self.first_token_at: float | None = None
        self.detokenizer = Detokenizer(vocabulary.piece, stopping.strings)
        self._id = submit.id
        self._sampler = sampler
        self._max_tokens = max_tokens
        self._lazy = constraint if isinstance(constraint, LazyConstraint) else None
        self._constraint = None if isinstance(constraint, LazyConstraint) else constraint
        self._thinking = thinking
        self._piece = vocabulary.piece
        self._end_tokens = frozenset((*vocabulary.end_tokens, *stopping.token_ids))
        self._min_tokens = stopping.min_tokens
        self._banned_before_min = tuple(self._end_tokens) if stopping.min_tokens else ()
        self._banned = vocabulary.end_tokens if stopping.ignore_eos else ()
        self.is_greedy = (
            sampler.is_argmax
            and constraint is None
            and thinking is None
            and not self._banned
            and not self._banned_before_min
        )
        self._unsent = ""
        self._unsent_tokens = 0
        self._unsent_logprobs: list[TokenLogprob] = []

    def pick(self, row: Row) -> int:
        """See Answer.pick."""
        if self._thinking is not None:
            token = self._thinking.next_token
            # A grammar that has no place for the end of the thinking has the last word.
            if token is not None and (self._constraint is None or self._constraint.allows(token)):
                return token
        banned = self._banned
        if self.completion_tokens < self._min_tokens:
            banned = self._banned_before_min
        return self._sampler.pick(row, constraint=self._constraint, banned=banned)

    def write(self, token: int, logprob: TokenLogprob | None = None) -> bool:
        """See Answer.write."""
        if self._max_tokens <= 0:
            self.end(FinishReason.LENGTH)
            return False
        if token in self._end_tokens:
            self.end(FinishReason.STOP)
            return False
        self._sampler.accept(token)
        self.completion_tokens += 1
        self._unsent_tokens += 1
        self._unsent += self.detokenizer.feed(token)
        if logprob is not None:
            self._unsent_logprobs.append(logprob)
        if self._constraint is not None:
            self._constraint.accept(token)
        if self._lazy is not None:
            self._follow(self._lazy, token)
        if self._thinking is not None:
            self._limit(self._thinking, token)
        if self.detokenizer.stop_string is not None or (
            self._constraint is not None and self._constraint.is_finished
        ):
            self.end(FinishReason.STOP)
        elif self.completion_tokens >= self._max_tokens:
            self.end(FinishReason.LENGTH)
        return True

    def _follow(self, lazy: LazyConstraint, token: int) -> None:
        """Begin the constraint at its trigger, and end it when it is complete."""
        if self._constraint is None:
            self._constraint = lazy.watch(self._piece(token))
        if self._constraint is not None and self._constraint.is_finished:
            self._constraint = None

    def _limit(self, thinking: ThinkingLimit, token: int) -> None:
        thinking.write(token, self._piece(token))
        if thinking.is_over:
            self._thinking = None

    def take_delta(self) -> Delta | None:
        """Text, tokens and log-probabilities since the last delta; None while there is no text."""
        if not self._unsent and (self.reason is None or not self._unsent_tokens):
            return None
        logprobs = self._unsent_logprobs
        delta = Delta(
            self._id,
            self.index,
            self._unsent,
            self._unsent_tokens,
            tuple(logprobs) if logprobs else (),
        )
        self._unsent = ""
        self._unsent_tokens = 0
        if logprobs:
            self._unsent_logprobs = []
        return delta

    def end(self, reason: FinishReason) -> None:
        """End the answer and release the text that was held back."""
        self.reason = reason
        self._unsent += self.detokenizer.finish()
