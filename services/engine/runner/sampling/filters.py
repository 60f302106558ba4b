"""Filter the candidates: top-p, min-p, typical and XTC, as llama.cpp defines them.

Pure functions. Each takes the gaps of the candidates (`candidates`), at least one, and returns how
many of them, or which range, it keeps: at least one.
"""

from __future__ import annotations

import math

import numpy as np

from services.engine.core import Sampling
from services.engine.runner.sampling.candidates import Candidates
from services.engine.runner.sampling.select import Floats
from services.engine.runner.sampling.sums import find_fraction, sum_blocks


def apply_filters(candidates: Candidates, params: Sampling, *, exclude_top: bool) -> range:
    """The places that all filters but top-k keep. `exclude_top` applies XTC."""
    gaps = candidates.gaps
    kept = typical(gaps, params.typical_p)
    kept = kept[: top_p(gaps[kept.start : kept.stop], params.top_p, candidates.total)]
    kept = kept[: min_p(gaps[kept.start : kept.stop], params.min_p)]
    if exclude_top:
        kept = kept[count_top_choices(gaps[kept.start : kept.stop], params.xtc_threshold) :]
    return kept


def compute_weights(gaps: Floats, temperature: float = 1.0) -> Floats:
    """Weights relative to the first candidate's, in the precision of the gaps."""
    weights: Floats = gaps[0] - gaps
    weights *= 1.0 / temperature
    np.exp(weights, out=weights)
    return weights


def top_p(gaps: Floats, p: float, total: float | None = None) -> int:
    """The fewest most likely candidates whose probability sums to p (nucleus sampling).

    `total`: the weight of all candidates, where `gaps` lacks some.
    """
    if p >= 1.0:
        return len(gaps)
    return min(find_fraction(compute_weights(gaps), p, "left", total=total) + 1, len(gaps))


def min_p(gaps: Floats, p: float) -> int:
    """The candidates at least p times as likely as the most likely one."""
    if p <= 0.0:
        return len(gaps)
    limit = gaps.dtype.type(max(-math.log(p), 0.0))
    return int(np.searchsorted(gaps, gaps[0] + limit, side="right"))


def typical(gaps: Floats, p: float) -> range:
    """The candidates whose surprise is nearest to the expected surprise, until p is exceeded.

    Meister et al. 2022, "Locally typical sampling".
    """
    if p >= 1.0:
        return range(len(gaps))
    weights = compute_weights(gaps)
    # Surprise and gap differ by a constant, the surprise of the best candidate.
    expected = sum_blocks(weights * gaps).sum() / sum_blocks(weights).sum()
    nearest = np.argsort(np.abs(gaps - gaps.dtype.type(expected)), kind="stable")
    count = min(find_fraction(weights[nearest], p, "right") + 1, len(gaps))
    middle = int(np.searchsorted(gaps, gaps.dtype.type(expected)))
    before = int(np.count_nonzero(nearest[:count] < middle))
    return range(middle - before, middle - before + count)


def count_top_choices(gaps: Floats, threshold: float) -> int:
    """How many XTC excludes: all of probability >= threshold but the least likely of these."""
    weights = compute_weights(gaps)
    limit = threshold * float(sum_blocks(weights).sum())
    above = len(gaps) - int(np.searchsorted(weights[::-1], weights.dtype.type(limit)))
    return max(above - 1, 0)
