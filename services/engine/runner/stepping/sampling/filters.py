"""Filter the candidates: top-p, min-p, typical and XTC, as llama.cpp defines them.

Pure functions. Each takes the logits of the candidates in any order, and returns the positions of
those that stay, or None when all do. Small candidate sets are float64; a whole vocabulary (top-k
off) is float32 and is never sorted as a whole.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from services.engine.core import Sampling
from services.engine.runner.stepping.sampling.select import Floats, Indices, largest

_FIRST_BATCH = 256  # candidates; they contain the nucleus of all but flat distributions
_BINS = 4096
_SPAN = (
    64.0  # nats that the bins cover; a whole vocabulary beyond has less than 1e-22 of the weight
)
_MAX_SURPRISE = 1e4  # nats; exp(-1e4) is 0 in every float


def apply_filters(
    ids: Indices, logits: Floats, params: Sampling, *, exclude_top: bool
) -> tuple[Indices, Floats]:
    """Apply all filters but top-k; at least one candidate stays. `exclude_top` applies XTC."""
    ids, logits = _keep(ids, logits, typical(logits, params.typical_p))
    ids, logits = _keep(ids, logits, top_p(logits, params.top_p))
    ids, logits = _keep(ids, logits, min_p(logits, params.min_p))
    if exclude_top:
        ids, logits = _keep(ids, logits, exclude_top_choices(logits, params.xtc_threshold))
    return ids, logits


def probabilities(logits: Floats, temperature: float = 1.0) -> Floats:
    """Softmax of logits / temperature, in the precision of the logits."""
    # In place: with 152k tokens, a temporary array costs as much in page faults as in arithmetic.
    weights: Floats = logits - logits.max()
    weights *= 1.0 / temperature
    np.exp(weights, out=weights)
    # float(): a NumPy float64 scalar would turn the arithmetic of a float32 array into float64.
    weights *= 1.0 / float(weights.sum(dtype=np.float64))
    return weights


def top_p(logits: Floats, p: float) -> Indices | None:
    """The fewest most likely tokens whose sum reaches p; at least one (nucleus sampling)."""
    if p >= 1.0:
        return None
    return _find_reaching(logits, probabilities(logits), p, side="left")


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
    # Limited where the probability is 0 anyway, because 0 * inf is NaN.
    surprise = np.minimum(norm - logits, _MAX_SURPRISE)
    expected = float(np.dot(probability, surprise))
    return _find_reaching(-np.abs(surprise - expected), probability, p, side="right")


def exclude_top_choices(logits: Floats, threshold: float) -> Indices | None:
    """All tokens but those of probability >= threshold; the least likely of these stays (XTC)."""
    probability = probabilities(logits)
    above = np.flatnonzero(probability >= threshold)
    if len(above) < 2:
        return None
    stays = np.ones(len(logits), np.bool_)
    stays[above] = False
    stays[above[probability[above].argmin()]] = True
    return np.flatnonzero(stays)


def _keep(ids: Indices, logits: Floats, stays: Indices | None) -> tuple[Indices, Floats]:
    return (ids, logits) if stays is None else (ids[stays], logits[stays])


def _find_reaching(
    keys: Floats, weights: Floats, p: float, *, side: Literal["left", "right"]
) -> Indices:
    """The best keys whose weights sum to p ("left": reach p, "right": exceed p)."""
    best = largest(keys, min(_FIRST_BATCH, len(keys)))
    needed = _count_needed(weights[best], p, side)
    if needed <= len(best) or len(best) == len(keys):
        return best[:needed]
    # 1 Put the keys into bins, best first; the last bin takes keys too far away to weigh anything.
    # 2 The border is in the bin where the sum passes p: keep the better bins, drop the worse ones.
    # 3 Sort this bin only.
    scaled = np.minimum((keys[best[0]] - keys) * (_BINS / _SPAN), _BINS)
    bins = scaled.astype(np.intp)
    sums = np.bincount(bins, weights, _BINS + 1).astype(np.float64, copy=False)
    border = min(_count_needed(sums[:_BINS], p, side) - 1, _BINS)
    kept = np.flatnonzero(bins < border)
    if border == _BINS:
        return kept
    inside = np.flatnonzero(bins == border)
    inside = inside[np.argsort(-keys[inside], kind="stable")]
    rest = p - float(sums[:border].sum())
    return np.concatenate([kept, inside[: _count_needed(weights[inside], rest, side)]])


def _count_needed(weights: Floats, p: float, side: Literal["left", "right"]) -> int:
    """How many leading weights reach or exceed p; one more than there are if all do not suffice."""
    reached: NDArray[np.float64] = np.cumsum(weights, dtype=np.float64)
    return int(np.searchsorted(reached, p, side=side)) + 1
