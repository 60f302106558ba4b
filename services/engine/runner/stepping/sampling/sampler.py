"""Choose the next token of one answer.

The order is llama-server's: logit bias, repetition/presence/frequency penalties, DRY, top-k,
typical, top-p, min-p, XTC, temperature, draw. A constraint is checked on the drawn token alone; only
a rejected one costs a mask over the vocabulary and a second draw, also llama-server's way.
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
from services.engine.runner.stepping.sampling.draws import Draws, Purpose, drawn
from services.engine.runner.stepping.sampling.dry import Dry
from services.engine.runner.stepping.sampling.penalties import Penalties
from services.engine.runner.stepping.sampling.select import Floats, Indices, largest
from services.shared.errors import InternalError, InvalidRequest

Logits = NDArray[np.float32]

# Below this temperature a lead of 0.0001 in the logits wins for certain: that is greedy.
_GREEDY = 1e-6
_MOST_BIAS = 1e6
_NOTHING_LEFT = "logit_bias and the constraint leave no token to choose from"


class Allowed(Protocol):
    """What a constraint permits next; `constraint.ConstraintState` is one."""

    def allows(self, token: int) -> bool:
        """Whether the answer may go on with this token."""

    def mask(self) -> NDArray[np.bool_]:
        """One flag per token of the vocabulary."""


class Sampler:
    """The sampling state of one answer: its penalties, and its place in its random numbers.

    `pick` changes nothing; `accept` moves on by one token. So a drafted position may be picked and
    thrown away, and the same seed gives the same text however the work was batched.
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
        """`breakers` are DRY's (`dry.breaker_tokens`). Raises InvalidRequest for a bad bias."""
        self._params = params
        self._bias = _checked_bias(params.logit_bias, vocab_size)
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
        constraint: Allowed | None = None,
        banned: Collection[int] = (),
    ) -> int:
        """The next token. `logits` is not changed; `banned` tokens are out of the question.

        Raises InternalError where the backend computed no numbers, InvalidRequest where nothing is
        left to choose from.
        """
        if self._is_greedy and self._leaves_logits:
            token = int(logits.argmax())
            _check(float(logits[token]))
            if token not in banned and (constraint is None or constraint.allows(token)):
                return token
        scores = self.scores(logits, banned)
        token = self._choose(_all_ids(len(scores)), scores, Purpose.TOKEN)
        if constraint is None or constraint.allows(token):
            return token
        permitted = np.flatnonzero(constraint.mask())
        if scores[permitted].max(initial=-np.inf) == -np.inf:
            # A grammar that can only end here outranks a ban on ending (min_tokens, ignore_eos).
            scores = self.scores(logits, ())
        return self._choose(permitted, scores[permitted], Purpose.TOKEN_AFTER_REJECTION)

    def accept(self, token: int) -> None:
        """The answer goes on with this token."""
        self._penalties.accept(token)
        self._dry.accept(token)
        self._position += 1

    def scores(self, logits: Logits, banned: Collection[int] = ()) -> Logits:
        """The logits with bias, penalties and bans in them; the same array where there are none."""
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

    def distribution(
        self, ids: Indices, scores: Logits, *, exclude_top: bool = False
    ) -> tuple[Indices, Floats]:
        """The tokens left in the draw and their probabilities; `exclude_top` applies XTC.

        `scores` are those of the tokens `ids`, the best one finite.
        """
        logits: Floats = scores
        if 0 < self._params.top_k < len(scores):
            best = largest(scores, self._params.top_k)
            ids, logits = ids[best], scores[best].astype(np.float64)
        ids, logits = filters.filtered(ids, logits, self._params, exclude_top=exclude_top)
        return ids, filters.probabilities(logits, self._params.temperature)

    def _choose(self, ids: Indices, scores: Logits, purpose: Purpose) -> int:
        if not len(ids):
            raise InvalidRequest(_NOTHING_LEFT)
        best = int(scores.argmax())  # NaN is larger than all to argmax, so one look finds it
        _check(float(scores[best]))
        if self._is_greedy:
            return int(ids[best])
        exclude_top = (
            self._params.xtc_probability > 0.0
            and self._draws.uniform(self._position, Purpose.XTC) <= self._params.xtc_probability
        )
        ids, probability = self.distribution(ids, scores, exclude_top=exclude_top)
        return int(ids[drawn(probability, self._draws.uniform(self._position, purpose))])


def _check(best: float) -> None:
    """Fail unless the highest score is a number one can choose by."""
    if best == -math.inf:
        raise InvalidRequest(_NOTHING_LEFT)
    if not math.isfinite(best):
        raise InternalError("the model computed no valid numbers for this request")


def _checked_bias(
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
    # Clipped where more means nothing: float32 has no 1e300. -inf is a ban and stays one.
    amounts = [amount if amount == -math.inf else _clipped(amount) for amount in bias.values()]
    return np.fromiter(bias.keys(), np.intp, len(bias)), np.array(amounts, np.float32)


def _clipped(amount: float) -> float:
    return max(-_MOST_BIAS, min(_MOST_BIAS, amount))


@lru_cache(maxsize=8)
def _all_ids(vocab_size: int) -> Indices:
    ids = np.arange(vocab_size)
    ids.setflags(write=False)  # shared by all samplers of the process
    return ids
