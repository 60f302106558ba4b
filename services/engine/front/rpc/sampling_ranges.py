"""The values a sampling option may have; checked at the api's edge for its dialect, and here."""

from __future__ import annotations

from dataclasses import dataclass

from services.shared.limits import MAX_ANSWERS


@dataclass(frozen=True, slots=True)
class Range:
    """low <= value <= high; `is_whole`: integers only."""

    low: float
    high: float
    is_whole: bool = False

    def allow(self, value: float) -> bool:
        """Whether the value is in range; NaN never is."""
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"between {self.low:g} and {self.high:g}"


SAMPLING: dict[str, Range] = {
    "temperature": Range(0, 100),
    "top_k": Range(0, 1 << 30, is_whole=True),
    "top_p": Range(0, 1),
    "min_p": Range(0, 1),
    "typical_p": Range(0, 1),
    "repeat_penalty": Range(0.01, 100),
    "repeat_last_n": Range(0, 1 << 20, is_whole=True),
    "presence_penalty": Range(-100, 100),
    "frequency_penalty": Range(-100, 100),
    "dry_multiplier": Range(0, 100),
    "dry_base": Range(0, 100),
    "dry_allowed_length": Range(0, 1 << 20, is_whole=True),
    "xtc_probability": Range(0, 1),
    "xtc_threshold": Range(0, 1),
}
LOGIT_BIAS = Range(-1e6, 1e6)
ANSWERS = Range(1, MAX_ANSWERS, is_whole=True)
TOP_LOGPROBS = Range(0, 1024, is_whole=True)
STOP_STRINGS_MOST = 256
DEADLINE_SECONDS = Range(0, 1e9)
