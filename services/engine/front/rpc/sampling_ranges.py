"""The ranges of a request's numbers, as the engine checks them.

The api checks the ranges of its dialects before. Those may be narrower, never wider: what both check
is in shared/limits.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.shared.limits import (
    MAX_ANSWERS,
    MAX_DEADLINE_SECONDS,
    MAX_DRY,
    MAX_DRY_ALLOWED_LENGTH,
    MAX_REPEAT_LAST_N,
    MAX_REPEAT_PENALTY,
    MAX_TEMPERATURE,
    MAX_TOP_K,
    MIN_REPEAT_PENALTY,
)


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
    "temperature": Range(0, MAX_TEMPERATURE),
    "top_k": Range(0, MAX_TOP_K, is_integer=True),
    "top_p": Range(0, 1),
    "min_p": Range(0, 1),
    "typical_p": Range(0, 1),
    "repeat_penalty": Range(MIN_REPEAT_PENALTY, MAX_REPEAT_PENALTY),
    "repeat_last_n": Range(0, MAX_REPEAT_LAST_N, is_integer=True),
    "presence_penalty": Range(-100, 100),
    "frequency_penalty": Range(-100, 100),
    "dry_multiplier": Range(0, MAX_DRY),
    "dry_base": Range(0, MAX_DRY),
    "dry_allowed_length": Range(0, MAX_DRY_ALLOWED_LENGTH, is_integer=True),
    "xtc_probability": Range(0, 1),
    "xtc_threshold": Range(0, 1),
}
LOGIT_BIAS_RANGE = Range(-1e6, 1e6)
N_RANGE = Range(1, MAX_ANSWERS, is_integer=True)
TOP_LOGPROBS_RANGE = Range(0, 1024, is_integer=True)
DEADLINE_SECONDS_RANGE = Range(0, MAX_DEADLINE_SECONDS)
