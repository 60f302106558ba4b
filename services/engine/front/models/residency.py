"""When a loaded model gives its memory to another one: pure, so that alternating models take turns.

Two models that cannot both be loaded, asked for by turns, would spend their time loading. So:

1. A model keeps its turn for `turn_seconds` after it was loaded: it takes new requests meanwhile,
   whoever waits. A swap then pays for itself: it never takes more than a fraction of the time.
2. Inside its turn it is not evicted the moment it falls idle, but after `settle_seconds`: its next
   request is likely on its way.
3. After its turn, while somebody waits for its memory, it takes no new requests: they wait as well.
   What runs finishes, it leaves, and all who waited for the other one are served together.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TurnRules:
    """Bounds of the two times, in seconds; both grow with what loading the model cost."""

    least_turn: float = 5.0
    most_turn: float = 120.0
    turn_loads: float = 4.0  # a turn lasts this many times as long as the load took
    most_settle: float = 2.0
    settle_loads: float = 0.25


@dataclass(frozen=True, slots=True)
class Residency:
    """Since when a model is there and what that cost; times of one clock, in seconds."""

    loaded_at: float
    load_seconds: float
    last_used: float


def turn_seconds(residency: Residency, rules: TurnRules) -> float:
    """How long its turn lasts."""
    wanted = residency.load_seconds * rules.turn_loads
    return min(max(wanted, rules.least_turn), rules.most_turn)


def is_in_turn(residency: Residency, rules: TurnRules, now: float) -> bool:
    """Whether it still takes new requests although somebody waits for its memory."""
    return now - residency.loaded_at < turn_seconds(residency, rules)


def is_settling(residency: Residency, rules: TurnRules, now: float) -> bool:
    """Whether it is idle so shortly that it is not to be evicted yet."""
    settle = min(residency.load_seconds * rules.settle_loads, rules.most_settle)
    return is_in_turn(residency, rules, now) and now - residency.last_used < settle
