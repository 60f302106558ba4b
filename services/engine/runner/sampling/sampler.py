"""Choose the next token of one answer.

The order is that of llama-server: logit bias, repetition/presence/frequency penalties, DRY, top-k,
typical, top-p, min-p, XTC, temperature, draw. A constraint is checked for the drawn token alone.
Only if it rejects the token, a mask over the vocabulary and a second draw are needed; llama-server
does the same.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.engine.core import Sampling
from services.engine.runner.sampling.candidates import rank_candidates
from services.engine.runner.sampling.draws import Draws, Purpose, draw_index
from services.engine.runner.sampling.dry import Dry
from services.engine.runner.sampling.filters import apply_filters, compute_weights
from services.engine.runner.sampling.penalties import Penalties
from services.engine.runner.sampling.row import Logits, Row
from services.engine.runner.sampling.select import Indices
from services.shared.errors import InternalError, InvalidRequest

# Below this temperature, a lead of 0.0001 in the logits always wins, so sampling is greedy.
_GREEDY = 1e-6
_MAX_BIAS = 1e6
_NOTHING_LEFT = "logit_bias and the constraint leave no token to choose from"


class TokenConstraint(Protocol):
    """What a constraint permits next; `structured_output.ConstraintState` implements it."""

    def allows(self, token: int) -> bool:
        """Whether this token may follow."""

    def mask(self) -> NDArray[np.bool_]:
        """Which tokens may follow, one flag per token of the vocabulary."""


class Sampler:
    """The sampling state of one answer: its penalties, and its position in the random numbers.

    `pick` changes nothing, `accept` advances by one token. So the token of a drafted position may
    be picked and discarded, and the batching of the work does not change the random numbers.
    """

    def __init__(
        self,
        params: Sampling,
        *,
        seed: int,
        vocab_size: int,
        prompt: Sequence[int],
        breakers: Iterable[int] = (),
    ) -> None:
        """`breakers` are DRY's (`dry.find_breaker_tokens`). Raises InvalidRequest for a bad bias."""
        self._params = params
        self._bias = _check_bias(params.logit_bias, vocab_size)
        self._penalties = Penalties(params, prompt)
        self._dry = Dry(params, prompt, breakers)
        self._draws = Draws(seed)
        self._position = 0
        self._is_greedy = params.temperature <= _GREEDY
        self._keeps_all = params.typical_p >= 1.0 and params.top_p >= 1.0 and params.min_p <= 0.0
        self._leaves_logits = self._bias is None and self._penalties.is_off and self._dry.is_off

    @property
    def is_argmax(self) -> bool:
        """Whether `pick` is the index of the largest logit, without a constraint and bans."""
        return self._is_greedy and self._leaves_logits

    def pick(
        self,
        logits: Logits | Row,
        *,
        constraint: TokenConstraint | None = None,
        banned: Collection[int] = (),
    ) -> int:
        """Choose the next token. `logits` is not changed; `banned` tokens are not chosen.

        Raises InternalError where the backend computed no valid numbers, and InvalidRequest where
        no token is left to choose from. A constraint that permits only banned tokens overrides the
        ban.
        """
        row = Row.of(logits)
        if self.is_argmax:
            token = int(row.logits.argmax())  # of a NaN, if there is one
            _check(float(row.logits[token]))
            if token not in banned and (constraint is None or constraint.allows(token)):
                return token
        scores = self._compute_row(row, banned)
        token = self._choose(scores, Purpose.TOKEN)
        if constraint is None or constraint.allows(token):
            return token
        permitted = np.flatnonzero(constraint.mask())
        if scores.logits[permitted].max(initial=-np.inf) == -np.inf:
            # A grammar that permits only the end overrides the ban by min_tokens or ignore_eos.
            scores = self._compute_row(row, ())
        place = self._choose(Row(scores.logits[permitted]), Purpose.TOKEN_AFTER_REJECTION)
        return int(permitted[place])

    def accept(self, token: int) -> None:
        """Append a token to the answer."""
        self._penalties.accept(token)
        self._dry.accept(token)
        self._position += 1

    def compute_scores(self, logits: Logits, banned: Collection[int] = ()) -> Logits:
        """The logits with bias, penalties and bans; a copy, unless there is nothing to apply."""
        if self._leaves_logits and not banned:
            return logits
        scores = logits.copy()
        if self._bias is not None:
            ids, amounts = self._bias
            scores[ids] += amounts
        self._penalties.apply(scores)
        self._dry.apply(scores)
        if banned:
            scores[list(banned)] = -np.inf
        return scores

    def _compute_row(self, row: Row, banned: Collection[int]) -> Row:
        scores = self.compute_scores(row.logits, banned)
        return row if scores is row.logits else Row(scores)

    def _choose(self, scores: Row, purpose: Purpose) -> int:
        """Choose an index of `scores`."""
        if not len(scores):
            raise InvalidRequest(_NOTHING_LEFT)
        if self._is_greedy:
            _check(scores.best)
            return int(scores.logits.argmax())
        uniform = self._draws.uniform(self._position, purpose)
        exclude_top = (
            self._params.xtc_probability > 0.0
            and self._draws.uniform(self._position, Purpose.XTC) <= self._params.xtc_probability
        )
        if not 0 < self._params.top_k < len(scores) and self._keeps_all and not exclude_top:
            _check(scores.best)
            return draw_index(scores.weights(self._params.temperature), uniform)
        candidates = rank_candidates(scores, self._params)
        _check(scores.best)
        kept = apply_filters(candidates, self._params, exclude_top=exclude_top)
        gaps = candidates.gaps[kept.start : kept.stop]
        weights = compute_weights(gaps, self._params.temperature)
        return candidates.find_index(kept[draw_index(weights, uniform)])


def _check(best: float) -> None:
    """Raise an error unless the highest score is finite."""
    if best == -math.inf:
        raise InvalidRequest(_NOTHING_LEFT)
    if not math.isfinite(best):
        raise InternalError("the model computed no valid numbers for this request")


def _check_bias(
    bias: Mapping[int, float], vocab_size: int
) -> tuple[Indices, NDArray[np.float32]] | None:
    if not bias:
        return None
    for token, amount in bias.items():
        if not 0 <= token < vocab_size:
            raise InvalidRequest(
                f"logit_bias names token {token}; this model has 0 to {vocab_size - 1}",
                param="logit_bias",
            )
        if math.isnan(amount) or amount == math.inf:
            raise InvalidRequest(
                f"logit_bias of token {token} is not a finite number", param="logit_bias"
            )
    # Clipped, because float32 cannot represent 1e300; larger amounts mean the same. -inf is a ban.
    amounts = [amount if amount == -math.inf else _clip(amount) for amount in bias.values()]
    return np.fromiter(bias.keys(), np.intp, len(bias)), np.array(amounts, np.float32)


def _clip(amount: float) -> float:
    return max(-_MAX_BIAS, min(_MAX_BIAS, amount))
