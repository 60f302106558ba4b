"""Which tokens stay in the draw: top-p, min-p, typical and XTC, as llama.cpp defines them.

Pure functions. Each takes the logits of the candidates in any order and returns the positions that
stay, or None when all do. Small candidate sets come as float64; a whole vocabulary (top-k off) comes
as float32 and is never sorted as a whole.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from services.engine.core import Sampling
from services.engine.runner.stepping.sampling.select import Floats, Indices, largest

_FIRST_LOOK = 256  # candidates; they hold the nucleus of all but flat distributions
_BINS = 4096
_SPAN = 64.0  # nats the bins cover; a whole vocabulary beyond has less than 1e-22 of the weight
_ENDLESS = 1e4  # nats; exp(-1e4) is 0 in every float


def filtered(
    ids: Indices, logits: Floats, params: Sampling, *, exclude_top: bool
) -> tuple[Indices, Floats]:
    """The candidates that stay after all filters but top-k; at least one. `exclude_top`: XTC."""
    ids, logits = _kept(ids, logits, typical(logits, params.typical_p))
    ids, logits = _kept(ids, logits, top_p(logits, params.top_p))
    ids, logits = _kept(ids, logits, min_p(logits, params.min_p))
    if exclude_top:
        ids, logits = _kept(ids, logits, exclude_top_choices(logits, params.xtc_threshold))
    return ids, logits


def probabilities(logits: Floats, temperature: float = 1.0) -> Floats:
    """Softmax of logits / temperature, in the precision of the logits."""
    # In place: at 152k tokens every temporary array costs as much in page faults as in arithmetic.
    weights: Floats = logits - logits.max()
    weights *= 1.0 / temperature
    np.exp(weights, out=weights)
    # float(): a float64 scalar would make a float32 array do its arithmetic in float64.
    weights *= 1.0 / float(weights.sum(dtype=np.float64))
    return weights


def top_p(logits: Floats, p: float) -> Indices | None:
    """The fewest most likely tokens that reach p together; at least one (nucleus sampling)."""
    if p >= 1.0:
        return None
    return _reach(logits, probabilities(logits), p, side="left")


def min_p(logits: Floats, p: float) -> Indices | None:
    """The tokens at least p times as likely as the most likely one."""
    if p <= 0.0:
        return None
    return np.flatnonzero(logits >= logits.max() + min(float(np.log(p)), 0.0))


def typical(logits: Floats, p: float) -> Indices | None:
    """The tokens whose surprise is nearest to the expected surprise, until p is exceeded.

    Meister et al. 2022, "Locally typical sampling".
    """
    if p >= 1.0:
        return None
    probability = probabilities(logits)
    likeliest = int(logits.argmax())
    norm = float(logits[likeliest]) - math.log(float(probability[likeliest]))
    # Cut where probabilities are 0 anyway: 0 * inf is NaN, and what cannot happen costs nothing.
    surprise = np.minimum(norm - logits, _ENDLESS)
    expected = float(np.dot(probability, surprise))
    return _reach(-np.abs(surprise - expected), probability, p, side="right")


def exclude_top_choices(logits: Floats, threshold: float) -> Indices | None:
    """Without the tokens of probability >= threshold, except the least likely of these (XTC)."""
    probability = probabilities(logits)
    above = np.flatnonzero(probability >= threshold)
    if len(above) < 2:
        return None
    stays = np.ones(len(logits), np.bool_)
    stays[above] = False
    stays[above[probability[above].argmin()]] = True
    return np.flatnonzero(stays)


def _kept(ids: Indices, logits: Floats, stays: Indices | None) -> tuple[Indices, Floats]:
    return (ids, logits) if stays is None else (ids[stays], logits[stays])


def _reach(keys: Floats, weights: Floats, p: float, *, side: Literal["left", "right"]) -> Indices:
    """The best keys whose weights sum to p ("left": reach it, "right": exceed it)."""
    best = largest(keys, min(_FIRST_LOOK, len(keys)))
    needed = _count(weights[best], p, side)
    if needed <= len(best) or len(best) == len(keys):
        return best[:needed]
    # 1 Sort into bins by key, best bin first; the last takes all that is too far to weigh anything.
    # 2 The bin where the sum passes p holds the border: better bins stay whole, worse ones go.
    # 3 Only that bin is sorted.
    scaled = np.minimum((keys[best[0]] - keys) * (_BINS / _SPAN), _BINS)
    bins = scaled.astype(np.intp)
    sums = np.bincount(bins, weights, _BINS + 1).astype(np.float64, copy=False)
    border = min(_count(sums[:_BINS], p, side) - 1, _BINS)
    kept = np.flatnonzero(bins < border)
    if border == _BINS:
        return kept
    inside = np.flatnonzero(bins == border)
    inside = inside[np.argsort(-keys[inside], kind="stable")]
    rest = p - float(sums[:border].sum())
    return np.concatenate([kept, inside[: _count(weights[inside], rest, side)]])


def _count(weights: Floats, p: float, side: Literal["left", "right"]) -> int:
    """How many of the first weights it takes; one more than there are where all do not suffice."""
    reached: NDArray[np.float64] = np.cumsum(weights, dtype=np.float64)
    return int(np.searchsorted(reached, p, side=side)) + 1
