"""Choose the next token of one answer.

The order is that of llama-server: logit bias, repetition/presence/frequency penalties, DRY, top-k,
typical, top-p, min-p, XTC, temperature, draw. A constraint is checked for the drawn token alone.
Only if it rejects the token, a mask over the vocabulary and a second draw are needed; llama-server
does the same.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.engine.core import Sampling
from services.engine.runner.stepping.sampling import filters
from services.engine.runner.stepping.sampling.draws import Draws, Purpose, draw_index
from services.engine.runner.stepping.sampling.dry import Dry
from services.engine.runner.stepping.sampling.penalties import Penalties
from services.engine.runner.stepping.sampling.select import Floats, Indices, largest
from services.shared.errors import InternalError, InvalidRequest

Logits = NDArray[np.float32]

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
        self._leaves_logits = self._bias is None and self._penalties.is_off and self._dry.is_off

    def pick(
        self,
        logits: Logits,
        *,
        constraint: TokenConstraint | None = None,
        banned: Collection[int] = (),
    ) -> int:
        """Choose the next token. `logits` is not changed; `banned` tokens are not chosen.

        Raises InternalError where the backend computed no valid numbers, and InvalidRequest where
        no token is left to choose from. A constraint that permits only banned tokens overrides the
        ban.
        """
        if self._is_greedy and self._leaves_logits:
            token = int(logits.argmax())
            _check(float(logits[token]))
            if token not in banned and (constraint is None or constraint.allows(token)):
                return token
        scores = self.compute_scores(logits, banned)
        token = self._choose(_all_ids(len(scores)), scores, Purpose.TOKEN)
        if constraint is None or constraint.allows(token):
            return token
        permitted = np.flatnonzero(constraint.mask())
        if scores[permitted].max(initial=-np.inf) == -np.inf:
            # A grammar that permits only the end overrides the ban by min_tokens or ignore_eos.
            scores = self.compute_scores(logits, ())
        return self._choose(permitted, scores[permitted], Purpose.TOKEN_AFTER_REJECTION)

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

    def compute_distribution(
        self, ids: Indices, scores: Logits, *, exclude_top: bool = False
    ) -> tuple[Indices, Floats]:
        """Compute the tokens left in the draw and their probabilities; `exclude_top` applies XTC.

        `scores` are those of the tokens `ids`; the best one must be finite.
        """
        logits: Floats = scores
        if 0 < self._params.top_k < len(scores):
            best = largest(scores, self._params.top_k)
            ids, logits = ids[best], scores[best].astype(np.float64)
        ids, logits = filters.apply_filters(ids, logits, self._params, exclude_top=exclude_top)
        return ids, filters.probabilities(logits, self._params.temperature)

    def _choose(self, ids: Indices, scores: Logits, purpose: Purpose) -> int:
        if not len(ids):
            raise InvalidRequest(_NOTHING_LEFT)
        best = int(scores.argmax())  # argmax treats NaN as the largest, so this finds it
        _check(float(scores[best]))
        if self._is_greedy:
            return int(ids[best])
        exclude_top = (
            self._params.xtc_probability > 0.0
            and self._draws.uniform(self._position, Purpose.XTC) <= self._params.xtc_probability
        )
        ids, probability = self.compute_distribution(ids, scores, exclude_top=exclude_top)
        return int(ids[draw_index(probability, self._draws.uniform(self._position, purpose))])


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


@lru_cache(maxsize=8)
def _all_ids(vocab_size: int) -> Indices:
    ids = np.arange(vocab_size)
    ids.setflags(write=False)  # shared by all samplers of the process
    return ids
