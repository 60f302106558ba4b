"""Log-probabilities of tokens under the model's own distribution, before any sampling rule."""

from __future__ import annotations

import math
from collections.abc import Callable

from services.engine.core import TokenLogprob
from services.engine.runner.sampling.row import Logits, Row


def compute_logprob(
    logits: Logits | Row, token: int, top: int, piece: Callable[[int], bytes]
) -> TokenLogprob:
    """Compute the token's natural log-probability, and those of the `top` most likely tokens.

    `logits` is the whole row as the backend computed it, without NaN.
    """
    row = Row.of(logits)
    likeliest = row.largest(top).tolist() if top else ()
    norm = row.best + math.log(row.total)

    def build_entry(index: int) -> TokenLogprob:
        return TokenLogprob(index, piece(index), float(row.logits[index]) - norm)

    best = tuple(build_entry(index) for index in likeliest)
    return TokenLogprob(token, piece(token), float(row.logits[token]) - norm, best)
