"""Random numbers that depend on nothing but a seed and a place in the answer.

An answer must not depend on its neighbours in the batch, on a preemption, or on how many tokens were
drafted; so there is no generator to advance, only a function of (seed, position, purpose). The
function is SplitMix64's output mix (Steele, Lea, Flood 2014: "Fast splittable pseudorandom number
generators"), which passes BigCrush on consecutive counters.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from services.engine.runner.stepping.sampling.select import Floats

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15
_BLOCK = 512  # np.cumsum over a whole vocabulary costs 2 ms; over its block sums, microseconds


class Purpose(IntEnum):
    """What a number decides; each position has one of each."""

    TOKEN = 0
    TOKEN_AFTER_REJECTION = 1
    XTC = 2


class Draws:
    """The random numbers of one answer. Any int is a seed, negative ones too."""

    def __init__(self, seed: int) -> None:
        # Mixed once, so that neighbouring seeds start far apart on the counter; moved off 0 first,
        # which the mix maps to itself: seed 0 would begin with the number 0.
        self._start = _mix((seed + _GAMMA) & _MASK)

    def uniform(self, position: int, purpose: Purpose) -> float:
        """A number in [0, 1) with 53 random bits."""
        counter = self._start + (position * len(Purpose) + purpose) * _GAMMA
        return (_mix(counter & _MASK) >> 11) * 2.0**-53


def drawn(weights: Floats, uniform: float) -> int:
    """The position where the running sum of the weights passes `uniform` (in [0, 1)) of their total.

    Never a position of weight 0; at least one weight is larger.
    """
    if len(weights) <= 4 * _BLOCK:
        return _passed(weights, uniform)
    starts = np.arange(0, len(weights), _BLOCK)
    sums = np.add.reduceat(weights, starts, dtype=np.float64)
    block = _passed(sums, uniform)
    within = uniform * float(sums.sum()) - float(sums[:block].sum())
    start = block * _BLOCK
    return start + _passed(weights[start : start + _BLOCK], within / float(sums[block]))


def _passed(weights: Floats, fraction: float) -> int:
    reached = np.cumsum(weights, dtype=np.float64)
    position = int(np.searchsorted(reached, max(fraction, 0.0) * reached[-1], side="right"))
    if position < len(weights):
        return position
    return int(np.flatnonzero(weights)[-1])  # rounding took the product up to the total


def _mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
