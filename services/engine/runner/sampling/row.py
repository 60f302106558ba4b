"""A row of logits, and what has been computed of it.

Sampling and log-probabilities need the same things of a row: its best values, and the sum of its
weights exp(logit - best). Each is computed once, when it is first needed.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from services.engine.runner.sampling.select import Indices, largest
from services.engine.runner.sampling.sums import sum_blocks

Logits = NDArray[np.float32]


class Row:
    """The logits of one output, float32 by token id; they must not change meanwhile. One thread."""

    __slots__ = ("_best", "_top", "_top_k", "_total", "_weights", "logits")

    def __init__(self, logits: Logits) -> None:
        self.logits = logits
        self._best: float | None = None
        self._total: float | None = None
        self._weights: NDArray[np.float32] | None = None
        self._top_k = 0
        self._top: Indices | None = None

    @staticmethod
    def of(logits: Logits | Row) -> Row:
        """The row itself, or a new one for an array."""
        return logits if isinstance(logits, Row) else Row(logits)

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def best(self) -> float:
        """The largest logit; NaN if there is a NaN, -inf for an empty row."""
        if self._best is None:
            self._best = float(self.logits.max(initial=-math.inf))
        return self._best

    @property
    def total(self) -> float:
        """The sum of the weights exp(logit - best). `best` must be finite."""
        if self._total is None:
            weights = self._compute_weights(1.0) if self._weights is None else self._weights
            self._total = float(sum_blocks(weights).sum())
        return self._total

    def largest(self, k: int) -> Indices:
        """Indices of the k largest logits, best first; see `select.largest`."""
        if self._top is None or k > self._top_k:
            self._top, self._top_k = largest(self.logits, k), k
            self._best = float(self.logits[self._top[0]]) if len(self._top) else -math.inf
        return self._top[:k]

    def weights(self, temperature: float) -> NDArray[np.float32]:
        """exp((logit - best) / temperature) of all tokens; not to be changed."""
        if temperature != 1.0:
            return self._compute_weights(temperature)
        if self._weights is None:
            self._weights = self._compute_weights(1.0)
        return self._weights

    def _compute_weights(self, temperature: float) -> NDArray[np.float32]:
        # In place: a temporary array of 152k values costs as much as the arithmetic.
        weights: NDArray[np.float32] = self.logits - np.float32(self.best)
        if temperature != 1.0:
            weights *= 1.0 / temperature
        np.exp(weights, out=weights)
        return weights
