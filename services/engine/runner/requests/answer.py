"""One answer in the making: from logits to tokens to text, until something ends it.

    logits ─► sampler (constraint, bans) ─► token ─► ends? ─► text ─► delta

What ends an answer: an end token, a stop string or id, its constraint, max_tokens, the context.
This runs once per token of every answer: what does not change is decided in the constructor.
"""

from __future__ import annotations

from services.engine.backends.base import Logits, Vocabulary
from services.engine.core import FinishReason, TokenLogprob
from services.engine.messages import Delta, Submit
from services.engine.runner.requests.detokenizer import AnswerText
from services.engine.runner.requests.structured_output import ConstraintState
from services.engine.runner.stepping.drafting.prompt_lookup import PromptLookup
from services.engine.runner.stepping.sampling.logprobs import token_logprob
from services.engine.runner.stepping.sampling.sampler import Sampler


class Answer:
    """Answer `index` of a request. The loop's thread only."""

    def __init__(
        self,
        submit: Submit,
        index: int,
        vocabulary: Vocabulary,
        sampler: Sampler,
        *,
        room: int,
        constraint: ConstraintState | None = None,
        lookup: PromptLookup | None = None,
    ) -> None:
        """`room`: the tokens it may have, by max_tokens or by what the context leaves."""
        stopping = submit.stopping
        self.index = index
        self.lookup = lookup
        self.reason: FinishReason | None = None
        self.completion_tokens = 0
        self.draft_tokens = 0
        self.draft_accepted = 0
        self.first_token_at: float | None = None
        self.text = AnswerText(vocabulary.piece, stopping.strings)
        self.piece = vocabulary.piece
        self._id = submit.id
        self._sampler = sampler
        self._room = room
        self._constraint = constraint
        self._top_logprobs = submit.top_logprobs
        self._ends = frozenset((*vocabulary.end_tokens, *stopping.token_ids))
        self._held_back = tuple(self._ends) if stopping.min_tokens else ()
        self._min_tokens = stopping.min_tokens
        self._banned = vocabulary.end_tokens if stopping.ignore_eos else ()
        self._unsent = ""
        self._unsent_tokens = 0
        self._unsent_logprobs: list[TokenLogprob] = []

    def take(self, logits: Logits) -> int | None:
        """The next token; None if it ends the answer. `reason` is set when the answer is over."""
        if self._room <= 0:
            self.end(FinishReason.LENGTH)
            return None
        banned = self._banned
        if self.completion_tokens < self._min_tokens:
            banned = self._held_back
        token = self._sampler.pick(logits, constraint=self._constraint, banned=banned)
        if token in self._ends:
            self.end(FinishReason.STOP)
            return None
        self._sampler.accept(token)
        self.completion_tokens += 1
        self._unsent_tokens += 1
        self._unsent += self.text.feed(token)
        if self._top_logprobs is not None:
            entry = token_logprob(logits, token, self._top_logprobs, self.piece)
            self._unsent_logprobs.append(entry)
        if self._constraint is not None:
            self._constraint.accept(token)
        if self.text.stopped is not None or (
            self._constraint is not None and self._constraint.is_finished
        ):
            self.end(FinishReason.STOP)
        elif self.completion_tokens >= self._room:
            self.end(FinishReason.LENGTH)
        return token

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
        """The answer is over; held-back text comes out."""
        self.reason = reason
        self._unsent += self.text.finish()
