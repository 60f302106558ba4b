"""Log-probabilities of tokens under the model's own distribution, before any sampling rule."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from services.engine.core import TokenLogprob
from services.engine.runner.stepping.sampling.select import largest


def compute_logprob(
    logits: NDArray[np.float32], token: int, top: int, piece: Callable[[int], bytes]
) -> TokenLogprob:
    """Compute the token's natural log-probability, and those of the `top` most likely tokens.

    `logits` is the whole row as the backend computed it, without NaN.
    """
    highest = logits.max()
    weights = logits - highest
    np.exp(weights, out=weights)
    # Summed in float64: in float32, a sum of 150k small terms would lose its tail.
    norm = float(highest) + math.log(float(weights.sum(dtype=np.float64)))

    def build_entry(index: int) -> TokenLogprob:
        return TokenLogprob(index, piece(index), float(logits[index]) - norm)

    best = tuple(build_entry(index) for index in largest(logits, top).tolist()) if top else ()
    return TokenLogprob(token, piece(token), float(logits[token]) - norm, best)
