"""What one step of a batch did."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.engine.core import TokenLogprob
from services.engine.runner.stepping.scheduler.request import Branch


@dataclass(slots=True)
class StepReport:
    """See the module."""

    seconds: float = 0.0  # of computing; 0: there was nothing to compute
    # Those that had to wait, and the tokens in their caches.
    begun: list[tuple[Branch, int]] = field(default_factory=list)
    computed: list[tuple[Branch, int]] = field(default_factory=list)  # tokens of prompts
    read: list[Branch] = field(default_factory=list)  # whose prompt others can continue
    # The first computed token of each part of a prompt, and the entries of those that follow.
    scored: list[tuple[Branch, int, list[TokenLogprob]]] = field(default_factory=list)
