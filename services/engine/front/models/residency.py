"""How long a loaded model keeps its memory while another model waits for it: pure.

Two models that cannot both be loaded, and that are requested alternately, would spend their time
loading. These rules prevent that:

1. A model has a minimum residency after its load. In that time it accepts new requests, whichever
   model waits. The minimum residency is a multiple of the load time, so that loading never takes
   more than a fraction of the time.
2. Within its minimum residency, a model that falls idle is evicted only after a grace time: its
   next request is likely to follow soon.
3. After its minimum residency, a model whose memory another one waits for accepts no new requests:
   they wait as well. Its running requests finish, it leaves, and then all requests that waited for
   the other model are served together.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ResidencyRules:
    """The bounds of the two times, in seconds, and how both grow with the load time."""

    min_residency_seconds: float = 5.0
    max_residency_seconds: float = 120.0
    residency_load_factor: float = 4.0  # residency = load time x this, within the bounds
    max_grace_seconds: float = 2.0
    grace_load_factor: float = 0.25  # grace time = load time x this, up to the bound


@dataclass(frozen=True, slots=True)
class Residency:
    """When a model was loaded and used, and how long the load took; times of one clock."""

    loaded_at: float
    load_seconds: float
    last_used_at: float


def compute_residency_seconds(residency: Residency, rules: ResidencyRules) -> float:
    """The model's minimum residency."""
    seconds = residency.load_seconds * rules.residency_load_factor
    return min(max(seconds, rules.min_residency_seconds), rules.max_residency_seconds)


def has_residency_left(residency: Residency, rules: ResidencyRules, now: float) -> bool:
    """Whether the model accepts new requests although another one waits for its memory."""
    return now - residency.loaded_at < compute_residency_seconds(residency, rules)


def is_in_grace(residency: Residency, rules: ResidencyRules, now: float) -> bool:
    """Whether the model has been idle for so short a time that it is not evicted yet."""
    grace_seconds = min(residency.load_seconds * rules.grace_load_factor, rules.max_grace_seconds)
    idle_seconds = now - residency.last_used_at
    return has_residency_left(residency, rules, now) and idle_seconds < grace_seconds
