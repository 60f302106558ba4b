"""The candidates of a draw, best first.

    gap      how many nats a candidate lies below the best one; ascending, the first is 0
    weight   exp(-gap): its probability before normalization

In this order every filter keeps a range, and finds its ends by binary search. A whole vocabulary
(top-k off) is sorted as float32 without the ids: 0.5 ms for 152k tokens, where sorting the ids too
takes 20 ms. What top-p or min-p will surely drop is left out before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from services.engine.core import Sampling
from services.engine.runner.sampling.row import Row
from services.engine.runner.sampling.select import Floats, Indices

_FEW = 2048  # at most, candidates are sorted together with their indices, in float64
_MAX_SHARE = 1 / 4  # of the vocabulary; to sort all is faster than to extract more


@dataclass(frozen=True, slots=True)
class Candidates:
    """Candidates, best first, equal ones by index. Those of -inf are left out.

    `indices` are their indices in the row. Where they are None, the index of the one candidate that
    is drawn is found by its gap: `unsorted` has the gaps in the order of `sources`, or of the row.
    `total` is the weight of all candidates, where `gaps` may lack some that top-p drops.
    """

    gaps: Floats
    indices: Indices | None = None
    unsorted: Floats | None = None
    sources: Indices | None = None
    total: float | None = None

    def find_index(self, place: int) -> int:
        """The index in the row of the candidate at a place."""
        if self.indices is not None:
            return int(self.indices[place])
        gap = self.gaps[place]
        equal = np.flatnonzero(self.unsorted == gap)
        found = equal[place - np.searchsorted(self.gaps, gap)]
        return int(found if self.sources is None else self.sources[found])


def rank_candidates(row: Row, params: Sampling) -> Candidates:
    """Sort the candidates that top-k keeps. There is none if `row.best` is not finite."""
    size = len(row)
    kept = min(params.top_k, size) or size
    if kept <= _FEW:
        return _rank_few(row, kept)
    if not math.isfinite(row.best):
        return Candidates(np.empty(0, np.float32))
    if kept < size or params.typical_p < 1.0:
        return _sort(row, kept=kept)
    total = row.total if params.top_p < 1.0 else None
    limit = _find_limit(size, params, total)
    if limit < math.inf:
        near = row.logits >= np.nextafter(np.float32(row.best - limit), np.float32(-np.inf))
        if np.count_nonzero(near) <= size * _MAX_SHARE:
            return _sort(row, sources=np.flatnonzero(near), total=total)
    return _sort(row, total=total)


def _rank_few(row: Row, kept: int) -> Candidates:
    indices = row.largest(kept)
    if not math.isfinite(row.best):
        return Candidates(np.empty(0), indices[:0])
    logits = row.logits[indices].astype(np.float64)
    return Candidates(logits[0] - logits, indices)


def _find_limit(size: int, params: Sampling, total: float | None) -> float:
    """The gap beyond which min-p or top-p surely drops a candidate; inf if there is none."""
    limit = math.inf if params.min_p <= 0.0 else max(-math.log(params.min_p), 0.0)
    if total is None:
        return limit
    # Beyond this gap lies less than 1 - top_p of the weight, even if all the vocabulary were at
    # it. The factor of 2 is for rounding.
    return min(limit, math.log(2 * size / ((1.0 - params.top_p) * total)))


def _sort(
    row: Row,
    *,
    kept: int | None = None,
    sources: Indices | None = None,
    total: float | None = None,
) -> Candidates:
    """Sort the gaps of the whole row, or of the indices `sources`, and keep the first `kept`."""
    unsorted = np.float32(row.best) - (row.logits if sources is None else row.logits[sources])
    gaps = np.sort(unsorted)
    gaps = gaps[: np.searchsorted(gaps, np.float32(np.inf))][:kept]
    return Candidates(gaps, unsorted=unsorted, sources=sources, total=total)
