"""The ranges of a request's numbers, as the engine checks them.

The api checks the ranges of its dialects before; those may be narrower.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.shared.limits import MAX_ANSWERS


@dataclass(frozen=True, slots=True)
class Range:
    """low <= value <= high; `is_integer`: whole numbers only."""

    low: float
    high: float
    is_integer: bool = False

    def contains(self, value: float) -> bool:
        """Whether the value lies between the bounds. NaN does not."""
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"between {self.low:g} and {self.high:g}"


SAMPLING_RANGES: dict[str, Range] = {
    "temperature": Range(0, 100),
    "top_k": Range(0, 1 << 30, is_integer=True),
    "top_p": Range(0, 1),
    "min_p": Range(0, 1),
    "typical_p": Range(0, 1),
    "repeat_penalty": Range(0.01, 100),
    "repeat_last_n": Range(0, 1 << 20, is_integer=True),
    "presence_penalty": Range(-100, 100),
    "frequency_penalty": Range(-100, 100),
    "dry_multiplier": Range(0, 100),
    "dry_base": Range(0, 100),
    "dry_allowed_length": Range(0, 1 << 20, is_integer=True),
    "xtc_probability": Range(0, 1),
    "xtc_threshold": Range(0, 1),
}
LOGIT_BIAS_RANGE = Range(-1e6, 1e6)
N_RANGE = Range(1, MAX_ANSWERS, is_integer=True)
TOP_LOGPROBS_RANGE = Range(0, 1024, is_integer=True)
DEADLINE_SECONDS_RANGE = Range(0, 1e9)
MAX_STOP_STRINGS = 256
