"""Prepare a submitted request for the batcher: tokens, samplers, constraint.

This runs beside the loop, on other threads, so that a long prompt or a grammar does not delay the
running answers. Invalid requests are refused here, before they are queued. The batcher refuses
only empty prompts, prompts that do not fit, and requests beyond the limit of its queue.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from services.engine.backends.base import Vocabulary
from services.engine.core import Constraint, TextPiece, TokenLogprob
from services.engine.messages.commands import Detokenize, Locate, Submit, ThinkingBudget, Tokenize
from services.engine.messages.reports import Detokenized, Located, Tokenized
from services.engine.runner.batcher import BatchRequest
from services.engine.runner.errors import build_too_long_error
from services.engine.runner.kvcache.chain import Chain
from services.engine.runner.kvcache.store import PromptStore
from services.engine.runner.requests.answer import TextAnswer
from services.engine.runner.requests.cut_tokens import find_cut_tokens
from services.engine.runner.requests.lazy_constraint import LazyConstraint
from services.engine.runner.requests.structured_output import ConstraintCompiler, ConstraintState
from services.engine.runner.requests.thinking import ThinkingLimit, ThinkingWatch
from services.engine.runner.sampling.dry import find_breaker_tokens
from services.engine.runner.sampling.sampler import Sampler
from services.shared.errors import InternalError, InvalidRequest, SpindllError, to_wire
from services.shared.limits import (
    MAX_ANSWERS,
    MAX_PROMPT_LOGPROBS,
    MAX_SUBMIT_BYTES,
    MAX_TOKENIZED_TOKENS,
)

logger = logging.getLogger(__name__)

# Of the tokens of an answer: for a call or a structure that must follow the thinking. At most half.
_MAX_SPARED_TOKENS = 1024


@dataclass(slots=True, eq=False)
class PreparedRequest:
    """A request that is ready for the loop, with the state of its answers."""

    submit: Submit
    request: BatchRequest
    answers: list[TextAnswer]  # those of the request
    uses_cuts: bool = False  # `Submit.cuts` are of use to this model
    started_at: float | None = None
    ended_answers: int = 0
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)


class InputProcessor:
    """Prepares requests for one loaded model. Any thread."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        constraints: ConstraintCompiler,
        *,
        context_length: int,
        store: PromptStore | None = None,
        uses_cuts: bool = False,
    ) -> None:
        """`store`: where computed prompts are stored, if they are. `uses_cuts`: see Batcher."""
        self._vocabulary = vocabulary
        self._constraints = constraints
        self._context_length = context_length
        self._store = store
        self._uses_cuts = uses_cuts

    def prepare(self, submit: Submit, *, arrived_at: float) -> PreparedRequest:
        """Prepare one request.

        `arrived_at`: on the monotonic clock; the deadline counts from then. Raises InvalidRequest
        or ContextLengthExceeded, and InternalError for our own bugs.
        """
        try:
            return self._prepare(submit, arrived_at)
        except SpindllError:
            raise
        except Exception as error:
            logger.exception("request could not be prepared", extra={"id": submit.id})
            raise InternalError("internal error") from error

    def tokenize(self, command: Tokenize) -> Tokenized:
        """Tokenize a text. An error becomes part of the result."""
        try:
            ids = self._vocabulary.tokenize(command.pieces, add_special=command.add_special)
            if len(ids) > MAX_TOKENIZED_TOKENS:
                raise InvalidRequest(
                    f"the text has {len(ids)} tokens, of at most {MAX_TOKENIZED_TOKENS}"
                )
            return Tokenized(command.id, tuple(ids))
        except InvalidRequest as error:
            return Tokenized(command.id, error=to_wire(error))
        except Exception:
            logger.exception("text could not be tokenized", extra={"id": command.id})
            return Tokenized(command.id, error=to_wire(InternalError("internal error")))

    def detokenize(self, command: Detokenize) -> Detokenized:
        """The text of tokens. An error becomes part of the result."""
        try:
            self._check_tokens(command.tokens, param="tokens")
            return Detokenized(command.id, self._read_text(command.tokens))
        except InvalidRequest as error:
            return Detokenized(command.id, error=to_wire(error))
        except Exception:
            logger.exception("tokens could not be read", extra={"id": command.id})
            return Detokenized(command.id, error=to_wire(InternalError("internal error")))

    def _read_text(self, tokens: Sequence[int]) -> str:
        text = bytearray()
        for token in tokens:
            text += self._vocabulary.piece(token) or self._vocabulary.read_piece(token)
            if len(text) > MAX_SUBMIT_BYTES:
                raise InvalidRequest(
                    f"the text is too long: more than {MAX_SUBMIT_BYTES} bytes", param="tokens"
                )
        return text.decode(errors="replace")

    def _check_tokens(self, tokens: Sequence[int], *, param: str) -> None:
        size = self._vocabulary.size
        wrong = next((token for token in tokens if not 0 <= token < size), None)
        if wrong is not None:
            raise InvalidRequest(
                f"{param}: there is no token {wrong}; this model has 0 to {size - 1}", param=param
            )

    def locate(self, command: Locate) -> Located:
        """Find, keep and prefetch what is stored. An error becomes part of the result."""
        try:
            return self._locate(command)
        except SpindllError as error:
            return Located(command.id, error=to_wire(error))
        except Exception:
            logger.exception("stored prompt not located", extra={"id": command.id})
            return Located(command.id, error=to_wire(InternalError("internal error")))

    def _locate(self, command: Locate) -> Located:
        tokens = self._tokenize_prompt(command)
        if self._store is None:
            return Located(command.id, len(tokens))
        chain = self._store.open_chain(command.cache_keys, tokens)
        stored, storable = self._store.find_prefix(chain), self._store.count_storable(chain)
        if stored is None:
            return Located(command.id, len(tokens), 0, storable)
        self._store.keep(stored)
        self._store.prefetch(stored)
        names = tuple(entry.name for entry in stored.entries)
        return Located(command.id, len(tokens), stored.length, storable, names)

    def _prepare(self, submit: Submit, arrived_at: float) -> PreparedRequest:
        if not 1 <= submit.n <= MAX_ANSWERS:
            raise InvalidRequest(f"n must be 1 to {MAX_ANSWERS}", param="n")
        prompt = self._tokenize_prompt(submit)
        if len(prompt) >= self._context_length:
            raise build_too_long_error(len(prompt), self._context_length)
        logprobs = len(prompt) * ((submit.top_logprobs or 0) + 1) if submit.prompt_logprobs else 0
        if logprobs > MAX_PROMPT_LOGPROBS:
            raise InvalidRequest(
                f"the log-probabilities of the prompt would be {logprobs}, of at most "
                f"{MAX_PROMPT_LOGPROBS}: ask for fewer of each token, or send a shorter prompt",
                param="logprobs",
            )
        max_tokens = self._context_length - len(prompt)
        if submit.stopping.max_tokens is not None:
            max_tokens = min(max_tokens, submit.stopping.max_tokens)
        answers = [
            self._build_answer(submit, index, prompt, max_tokens) for index in range(submit.n)
        ]
        request = BatchRequest(
            submit.id,
            prompt,
            answers,
            max_length=len(prompt) + max_tokens,
            lane=submit.lane,
            principal=submit.principal,
            realm=submit.realm,
            arrived_at=arrived_at,
            deadline=None
            if submit.deadline_seconds is None
            else arrived_at + submit.deadline_seconds,
            is_shareable=not submit.no_cache,
            prompt_logprobs=(submit.top_logprobs or 0) if submit.prompt_logprobs else None,
            chain=self._open_chain(submit, prompt),
            cuts=self._find_cuts(submit, prompt),
        )
        return PreparedRequest(submit, request, answers, self._uses_cuts)

    def _open_chain(self, submit: Submit, prompt: list[int]) -> Chain | None:
        # Where the prompt's own log-probabilities are wanted, all of it must be computed.
        if self._store is None or submit.no_cache or submit.prompt_logprobs:
            return None
        if not submit.cache_keys:
            return None
        return self._store.open_chain(
            submit.cache_keys, prompt, is_always_stored=submit.stores_always
        )

    def _find_cuts(self, submit: Submit, prompt: list[int]) -> tuple[int, ...]:
        if not self._uses_cuts or submit.no_cache:
            return ()
        return find_cut_tokens(
            self._vocabulary,
            submit.pieces or (),
            submit.cuts,
            prompt,
            add_special=submit.add_special,
        )

    def _tokenize_infill(self, prefix: str, suffix: str) -> list[int]:
        """Prefix, suffix, and the mark of what is between them, in the order of llama-server."""
        marks = self._vocabulary.infill_tokens
        if marks is None:
            raise InvalidRequest("this model cannot fill in a text before a suffix", param="suffix")
        bos, before, after = (
            self._vocabulary.tokenize((TextPiece(text, literal=True),), add_special=add_special)
            for text, add_special in (("", True), (prefix, False), (suffix, False))
        )
        return [*bos, marks[0], *before, marks[1], *after, marks[2]]

    def _tokenize_prompt(self, submit: Submit | Locate) -> list[int]:
        if isinstance(submit, Submit) and submit.infill is not None:
            return self._tokenize_infill(*submit.infill)
        if submit.tokens is None:
            return self._vocabulary.tokenize(submit.pieces or (), add_special=submit.add_special)
        self._check_tokens(submit.tokens, param="prompt")
        return list(submit.tokens)

    def _build_answer(
        self, submit: Submit, index: int, prompt: list[int], max_tokens: int
    ) -> TextAnswer:
        sampling = submit.sampling
        constraint = submit.constraint
        return TextAnswer(
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
            max_tokens=max_tokens,
            constraint=None if constraint is None else self._compile(constraint),
            thinking=None if submit.thinking is None else self._limit(submit.thinking, max_tokens),
        )

    def _limit(self, thinking: ThinkingBudget, max_tokens: int) -> ThinkingLimit:
        """The limit for an answer of at most `max_tokens` tokens."""
        end = self._vocabulary.tokenize((TextPiece(thinking.end),), add_special=False)
        if not set(end).isdisjoint(self._vocabulary.end_tokens):
            raise InvalidRequest("the thinking of this model cannot be ended", param="thinking")
        spared = min(max_tokens // 2, _MAX_SPARED_TOKENS) if thinking.spares_answer else 0
        limit = max_tokens - spared
        if thinking.max_tokens is not None:
            limit = min(limit, thinking.max_tokens)
        watch = ThinkingWatch(thinking.start, thinking.end, is_open=thinking.is_open)
        return ThinkingLimit(watch, limit, end)

    def _compile(self, constraint: Constraint) -> ConstraintState | LazyConstraint:
        state = self._constraints.compile(constraint)
        return state if constraint.trigger is None else LazyConstraint(state, constraint.trigger)

    @cached_property
    def _breakers(self) -> frozenset[int]:
        return find_breaker_tokens(self._vocabulary.size, self._vocabulary.piece)
