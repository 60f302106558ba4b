"""Random numbers that depend only on a seed and a position in the answer.

An answer must not depend on its neighbours in the batch, on a preemption, or on how many tokens
were drafted. So there is no generator that advances, only a function of (seed, position, purpose).
The function is SplitMix64's output mix (Steele, Lea, Flood 2014: "Fast splittable pseudorandom
number generators"), which passes BigCrush on consecutive counters.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from services.engine.runner.sampling.select import Floats
from services.engine.runner.sampling.sums import find_fraction

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15


class Purpose(IntEnum):
    """What a number decides; each position has one number for each purpose."""

    TOKEN = 0
    TOKEN_AFTER_REJECTION = 1
    XTC = 2


class Draws:
    """The random numbers of one answer. Any int is a valid seed, also a negative one."""

    def __init__(self, seed: int) -> None:
        # Mixed once, so that neighbouring seeds start far apart on the counter. The mix maps 0 to
        # itself, so _GAMMA is added first; otherwise seed 0 would begin with the number 0.
        self._start = _mix((seed + _GAMMA) & _MASK)

    def uniform(self, position: int, purpose: Purpose) -> float:
        """A number in [0, 1) with 53 random bits."""
        counter = self._start + (position * len(Purpose) + purpose) * _GAMMA
        return (_mix(counter & _MASK) >> 11) * 2.0**-53


def draw_index(weights: Floats, uniform: float) -> int:
    """Find where the running sum of the weights passes `uniform`, in [0, 1), times their total.

    The position never has weight 0. At least one weight must be larger than 0.
    """
    position = find_fraction(weights, uniform, "right")
    if position < len(weights) and weights[position] > 0:
        return position
    return int(np.flatnonzero(weights[:position])[-1])  # rounding has raised the product


def _mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
