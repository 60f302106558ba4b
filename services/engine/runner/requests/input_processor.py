"""A submitted request made ready for the loop: tokens, samplers, constraint.

Runs beside the loop, so that a long prompt or a grammar costs the running answers nothing.
Everything wrong with a request is found here, before it is queued.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import cached_property

from services.engine.backends.base import Vocabulary
from services.engine.core import TokenLogprob
from services.engine.messages import Submit, Tokenize, Tokenized
from services.engine.runner.requests.answer import Answer
from services.engine.runner.requests.structured_output import Constraints
from services.engine.runner.stepping.drafting.prompt_lookup import PromptLookup
from services.engine.runner.stepping.sampling.dry import breaker_tokens
from services.engine.runner.stepping.sampling.sampler import Sampler
from services.engine.runner.stepping.scheduler.request import Request
from services.engine.runner.stepping.scheduler.scheduler import too_long
from services.shared.errors import InternalError, InvalidRequest, SpindllError, to_wire
from services.shared.limits import MAX_ANSWERS

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Arrival:
    """A request on its way into the loop, with all that its answers need."""

    submit: Submit
    request: Request
    answers: list[Answer]
    started_at: float | None = None
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)


class Intake:
    """Prepares requests for one loaded model. Any thread."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        constraints: Constraints,
        *,
        context_length: int,
        speculates: bool,
    ) -> None:
        self._vocabulary = vocabulary
        self._constraints = constraints
        self._context_length = context_length
        self._speculates = speculates

    def prepare(self, submit: Submit, *, arrived: float) -> Arrival:
        """`arrived` on the monotonic clock, when its deadline began to run.

        Raises InvalidRequest or ContextLengthExceeded, and InternalError for our bugs.
        """
        try:
            return self._prepare(submit, arrived)
        except SpindllError:
            raise
        except Exception as error:
            logger.exception("request could not be prepared", extra={"id": submit.id})
            raise InternalError("internal error") from error

    def tokenize(self, command: Tokenize) -> Tokenized:
        """The answer, whatever it is."""
        try:
            ids = self._vocabulary.tokenize(command.pieces, add_special=command.add_special)
            return Tokenized(command.id, tuple(ids))
        except Exception:
            logger.exception("text could not be tokenised", extra={"id": command.id})
            return Tokenized(command.id, error=to_wire(InternalError("internal error")))

    def _prepare(self, submit: Submit, arrived: float) -> Arrival:
        if not 1 <= submit.n <= MAX_ANSWERS:
            raise InvalidRequest(f"n must be 1 to {MAX_ANSWERS}", param="n")
        prompt = self._prompt(submit)
        if len(prompt) >= self._context_length:
            raise too_long(len(prompt), self._context_length)
        room = self._context_length - len(prompt)
        if submit.stopping.max_tokens is not None:
            room = min(room, submit.stopping.max_tokens)
        request = Request(
            submit.id,
            prompt,
            limit=len(prompt) + room,
            n=submit.n,
            lane=submit.lane,
            principal=submit.principal,
            arrived=arrived,
            deadline=None if submit.deadline_seconds is None else arrived + submit.deadline_seconds,
            is_public=not submit.no_cache,
            wants_prompt_logits=submit.prompt_logprobs,
        )
        answers = [self._answer(submit, index, prompt, room) for index in range(submit.n)]
        return Arrival(submit, request, answers)

    def _prompt(self, submit: Submit) -> list[int]:
        if submit.tokens is None:
            return self._vocabulary.tokenize(submit.pieces or (), add_special=submit.add_special)
        size = self._vocabulary.size
        wrong = next((token for token in submit.tokens if not 0 <= token < size), None)
        if wrong is not None:
            raise InvalidRequest(
                f"the prompt names token {wrong}; this model has 0 to {size - 1}", param="prompt"
            )
        return list(submit.tokens)

    def _answer(self, submit: Submit, index: int, prompt: list[int], room: int) -> Answer:
        sampling = submit.sampling
        constraint = submit.constraint
        return Answer(
            submit,
            index,
            self._vocabulary,
            Sampler(
                sampling,
                seed=sampling.seed + index,
                vocab_size=self._vocabulary.size,
                prompt=prompt,
                breakers=self._breakers if sampling.dry_multiplier else (),
            ),
            room=room,
            constraint=None if constraint is None else self._constraints.compile(constraint),
            lookup=PromptLookup() if self._speculates else None,
        )

    @cached_property
    def _breakers(self) -> frozenset[int]:
        return breaker_tokens(self._vocabulary.size, self._vocabulary.piece)
